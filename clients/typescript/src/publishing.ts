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

/** The server knows a key for two minutes or more, from when it was stored; a repetition takes some time to arrive. */
export const KEY_KNOWN_MS = 100_000;
/** A part of the SDK that could not be loaded is asked for again. */
const LOAD_AGAIN_MS = 5_000;

export interface Publish {
  readonly key: string;
  /** The payload as JSON. */
  readonly text: string;
  readonly resolve: (published: Published) => void;
  /** What a `CarillonError` is made of. */
  readonly reject: (error: { code: string; message: string; closeCode: number | undefined; outcome: "unknown" | undefined }) => void;
  /** On its way on the present connection. */
  isSent?: boolean;
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
  /** Counts connections; what was held belongs to one. */
  #turn = 0;
  #attempt = 0;

  constructor(private readonly _room: SaidIn) {}

  add(publish: Publish): void {
    this.list.push(publish);
    this._room._wire._queued += 1;
    this.pump();
  }

  /** Sends what waits, in order; nothing overtakes one that is held. */
  pump(): void {
    for (const publish of [...this.list]) {
      if (this.#isHeld || this._room._wire.connection.state !== "connected" || !this._room._isOpen()) return;
      if (!publish.isSent) this.#next(publish);
    }
  }

  onDisconnected(): void {
    for (const publish of this.list) publish.isSent = false;
    this.#isHeld = false;
    this.#turn += 1;
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
    const age = this._room._clock.now() - (inDoubtSince ?? 0);
    // A clock that was set back tells nothing about the age.
    if (!inDoubtSince || (age >= 0 && age < KEY_KNOWN_MS)) this.#send(publish);
    else if (!isHidden && this._room._isReadSince(inDoubtSince)) this.#send(publish, true);
    else this.#look(publish);
  }

  #send(publish: Publish, isNew = false): void {
    publish.isSent = true;
    if (isNew || !publish.inDoubtSince) publish.inDoubtSince = this._room._clock.now();
    const frame = { type: "broadcast", room: this._room.name, key: publish.key };
    this._room._wire._ask(frame, { payload: publish.text }, (ack) => this.#onAck(publish, ack), (error, answer) => this.#onError(publish, error, answer));
  }

  #onAck(publish: Publish, ack: Frame): void {
    this.#attempt = 0;
    if (!this.#settle(publish, ack)) return;
    this._room._onStored(publish, ack);
  }

  #onError(publish: Publish, error: CarillonError, { retryAfterMs }: Frame): void {
    if (!mayRetry(error.code)) return this.#fail(publish, error, true);
    publish.isSent = false;
    // Refused for now is not stored; only an unknown outcome leaves a doubt.
    if (!error.outcome) delete publish.inDoubtSince;
    this.#hold(retryAfterMs ?? backoffMs(this.#attempt++, this._room._clock.random));
  }

  #hold(ms: number): void {
    this.#isHeld = true;
    const turn = this.#turn;
    this._room._clock.setTimeout(() => {
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
    this._room._wire._queued -= 1;
    return true;
  }

  /** Looks for it in the room's history. Hardly ever needed, and so not part of what every page loads. */
  #look(publish: Publish): void {
    this.#isHeld = true;
    const turn = this.#turn;
    const settle = (found: Frame | undefined | null, error?: CarillonError) => {
      if (turn !== this.#turn) return;
      this.#isHeld = false;
      if (found) this.#settle(publish, found);
      else if (error || found === null || publish.isHidden) this.#fail(publish, error ?? new CarillonError("unavailable", "the room was trimmed"));
      else this.#send(publish, true);
      this.pump();
    };
    import("./look.js")
      .then(({ look }) => look(this._room._wire, this._room.name, publish))
      .then(settle, (error) => (error instanceof CarillonError ? settle(undefined, error) : this.#hold(LOAD_AGAIN_MS)));
  }
}
