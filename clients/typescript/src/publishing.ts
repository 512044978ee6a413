// What a room has said and has no answer for yet: in order, once, however long the connection was away.
//
// A publish that was sent and not answered is in doubt: it may be stored or not. It is settled by the first of
//   1. its key in the replay, in an `own` frame or in what is read from the history: it was stored;
//   2. its repetition with the same key, for as long as the server surely knows the key: the answer names the first;
//   3. a replay that was whole and did not show it: it was not stored, and is sent again;
//   4. where there is no such replay (the room is not joined, or own messages come as all others): its key in the history, see `look.ts`;
//   5. where that may have been taken by retention: nobody knows, and the promise rejects with outcome `unknown`.

import type { Clock } from "./clock.js";
import { CarillonError, mayRetry } from "./error.js";
import type { Frame, Published } from "./frames.js";
import { backoffMs } from "./retry.js";
import type { Wire } from "./wire.js";
import { KEY_KNOWN_MS, LOAD_AGAIN_MS } from "./limits.js";

export interface Publish {
  readonly key: string;
  /** The payload as JSON. */
  readonly text: string;
  readonly resolve: (published: Published) => void;
  /** What a `CarillonError` is made of. */
  readonly reject: (error: { code: string; message: string; closeCode: number | undefined; outcome: "unknown" | undefined }) => void;
  /** Stands for the one time that it is on its way on the present connection. */
  isSent?: object | undefined;
  /** When it was sent for the first time without being answered since, Unix milliseconds. */
  inDoubtSince?: number;
  /** It may be among messages that nobody can get any more. */
  isHidden?: boolean;
}

/** What a publish needs to know of its room. */
interface SaidIn {
  readonly name: string;
  readonly _wire: Wire;
  readonly _clock: Clock;
  /** Whether publishes may go out now: the room was read up to its head, or is not read at all. */
  _isOpen(): boolean;
  /** Whether the room was read from before this time on, so that what was not seen is not there. */
  _isReadSince(time: number): boolean;
  _onStored(publish: Publish, ack: Frame): void;
}

export class Publishing {
  readonly list: Publish[] = [];
  #isHeld = false;
  /** Counts connections, and what holds up: what was held belongs to one. */
  #turn = 0;
  #attempt = 0;
  /** A turn to send was asked for, and has not come. */
  #isAsked = false;
  /** Something was refused for now: one at a time until nothing waits, so that nothing is stored before what was said before it. */
  #isCareful = false;
  #room: SaidIn;

  constructor(room: SaidIn) {
    this.#room = room;
  }

  add(publish: Publish): void {
    this.list.push(publish);
    this.#room._wire._queued += 1;
    this.pump();
  }

  /** Sends what waits, in order; nothing overtakes one that is held. Which one goes is decided when its turn has come. */
  pump(): void {
    while (!this.#isAsked && this.#first()) {
      let isLater = false;
      this.#isAsked = true;
      this.#room._wire.connection._turn(() => {
        const publish = this.#first();
        this.#isAsked = false;
        if (publish) this.#next(publish);
        if (isLater) this.pump();
      });
      isLater = true;
    }
  }

  /** What may go next, if anything may go now. */
  #first(): Publish | undefined {
    const { list } = this;
    if (this.#isHeld || (this.#isCareful && list[0]?.isSent) || !this.#room._isOpen()) return;
    return list.find(({ isSent }) => !isSent);
  }

  onDisconnected(): void {
    this.#unsent(0);
    this.#isHeld = this.#isAsked = false;
    this.#turn += 1;
  }

  #unsent(from: number): void {
    for (const publish of this.list.slice(from)) publish.isSent = undefined;
  }

  /** The message of a key is stored. */
  settleKey(key: string | undefined, frame: Frame): Publish | undefined {
    const publish = this.list.find((publish) => publish.key === key);
    if (publish) this.#settle(publish, frame);
    return publish;
  }

  /** Messages are gone for good, and those in doubt may have been among them. */
  onGap(): void {
    for (const publish of this.list) if (publish.inDoubtSince && !publish.isSent) publish.isHidden = true;
  }

  fail(error: CarillonError): void {
    for (const publish of [...this.list]) this.#fail(publish, error);
  }

  #next(publish: Publish): void {
    const { inDoubtSince, isHidden } = publish;
    const age = this.#room._clock.now() - (inDoubtSince ?? 0);
    // A clock that was set back tells nothing about the age.
    if (!inDoubtSince || (age >= 0 && age < KEY_KNOWN_MS)) this.#send(publish);
    else if (!isHidden && this.#room._isReadSince(inDoubtSince)) this.#send(publish, true);
    else this.#look(publish);
  }

  #send(publish: Publish, isNew = false): void {
    const sent = (publish.isSent = {});
    if (isNew || !publish.inDoubtSince) publish.inDoubtSince = this.#room._clock.now();
    const frame = { type: "broadcast", room: this.#room.name, key: publish.key };
    this.#room._wire._ask(frame, { payload: publish.text, atOnce: true }, (ack) => this.#onAck(publish, ack), (error, answer) => this.#onError(publish, sent, error, answer));
  }

  #onAck(publish: Publish, ack: Frame): void {
    this.#attempt = 0;
    if (!this.#settle(publish, ack)) return;
    this.#room._onStored(publish, ack);
  }

  #onError(publish: Publish, sent: object, error: CarillonError, { retryAfterMs }: Frame): void {
    if (!mayRetry(error.code)) return this.#fail(publish, error, true);
    // It is said again already, behind another one that was refused.
    if (publish.isSent !== sent) return;
    // So is all that was said after it: what of that is stored by now is answered as a duplicate.
    this.#unsent(this.list.indexOf(publish));
    // Refused for now is not stored; only an unknown outcome leaves a doubt.
    if (!error.outcome) delete publish.inDoubtSince;
    this.#isCareful = true;
    this.#hold(retryAfterMs ?? backoffMs(this.#attempt++, this.#room._clock.random));
  }

  #hold(ms: number): void {
    this.#isHeld = true;
    const turn = ++this.#turn;
    this.#room._clock.setTimeout(() => {
      if (turn !== this.#turn) return;
      this.#isHeld = false;
      this.pump();
    }, ms);
  }

  /** False: it was settled before. */
  #settle(publish: Publish, { offset, id, ts, duplicate }: Frame): boolean {
    const isFirst = this.#remove(publish);
    publish.resolve({ offset, id, ts, ...(duplicate && { duplicate }) });
    return isFirst;
  }

  #fail(publish: Publish, { code, message, closeCode }: CarillonError, isRefused?: boolean): void {
    const outcome = publish.inDoubtSince && !isRefused ? "unknown" : undefined;
    if (this.#remove(publish)) publish.reject({ code, message, closeCode, outcome });
  }

  #remove(publish: Publish): boolean {
    const index = this.list.indexOf(publish);
    if (index < 0) return false;
    this.list.splice(index, 1);
    this.#room._wire._queued -= 1;
    this.#isCareful &&= this.list.length > 0;
    this.pump();
    return true;
  }

  /** Looks for it in the room's history. Hardly ever needed, and so not part of what every page loads. */
  #look(publish: Publish): void {
    this.#isHeld = true;
    const turn = this.#turn;
    const go = (act: () => void) => {
      if (turn !== this.#turn) return;
      this.#isHeld = false;
      act();
      this.pump();
    };
    import("./look.js")
      .then(({ look }) => look(this.#room._wire, this.#room.name, publish))
      .then((found) => go(() => (found ? this.#settle(publish, found) : this.#send(publish, true))), (error) => (error.code ? go(() => this.#fail(publish, error)) : this.#hold(LOAD_AGAIN_MS)));
  }
}
