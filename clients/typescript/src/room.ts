// One room: where we are in its log, what comes next, and who is there. It counts: every message is told once, in
// order, and a hole is either filled or reported.

import type { Clock } from "./clock.js";
import { randomId } from "./clock.js";
import { Emitter, type Listener } from "./emitter.js";
import { CarillonError, mayRetry } from "./error.js";
import type { Ephemeral, Frame, Gap, History, Member, Message, Position, Presence, Published } from "./frames.js";
import { type Publish, Publishing } from "./publishing.js";
import { backoffMs } from "./retry.js";
import type { AskOptions, Wire } from "./wire.js";
import { HISTORY_LIMIT_MAX, ITERATOR_BUFFER_MAX } from "./limits.js";

export interface RoomOptions {
  /** Messages to begin with, when nothing was seen yet: the newest `last` (0–1000). */
  last?: number;
  /** Where an earlier life of this app was (`room.position`): what came since is told. `last` is for what can't be resumed. */
  since?: Position;
  /**
   * Called when messages can no longer be had, before the room goes on: load your own state anew here, and return the
   * position that it stands for. Without one, or if it returns nothing, the room goes on with what is left. One that fails is called
   * again, after as long as a connection would wait; until then, `error` says why.
   */
  reload?: (gap: Gap) => Promise<Position | void> | Position | void;
}

export interface PublishOptions {
  /** Idempotency key, 1–64 bytes: the same key is stored once. Without one, the SDK makes one. */
  key?: string;
}

export interface HistoryOptions {
  /** The newest messages below this offset. */
  before?: number;
  /** The oldest messages above this offset. Not together with `before`. */
  after?: number;
  /** 1–1000, otherwise 50. */
  limit?: number;
}

/**
 * `idle`: not joined. `joining`: being joined, or read up to its head, or waiting for the connection. `live`: everything
 * was seen. `refused`: `error` says why; it is asked for again with the next connection, and with the next token.
 */
export type RoomState = "idle" | "joining" | "live" | "refused";

/** What a room tells. */
export interface RoomKinds<T, E> {
  /** The next message, one's own included: each once, in the order of offsets. */
  message: Message<T>;
  /** A message that is not stored. */
  ephemeral: Ephemeral<E>;
  /** Messages can no longer be had. */
  gap: Gap;
  /** `room.state` is another one. */
  change: RoomState;
  /** Nothing more is told, unless the room is joined again: it was left, or the error says why. */
  end: CarillonError | undefined;
  /** Who is there, whenever that changes. */
  presence: Presence;
  /** A user's first connection came. */
  userJoined: Member;
  /** A user's last connection went. */
  userLeft: Member;
  /** What was published is not stored: the promise of `publish` rejects with the same error. */
  rejected: CarillonError;
}

const ignore = () => {};
const WATCHED = ["presence", "userJoined", "userLeft"] as const;

/** A room, as this client sees it. `T` is the type of its payloads, `E` that of ephemeral ones. */
export class Room<T = unknown, E = unknown> extends Emitter<RoomKinds<T, E>> implements AsyncIterable<Message<T>> {
  declare readonly name: string;
  state: RoomState = "idle";
  /** Why it is refused, or could not be joined yet. */
  declare error: CarillonError | undefined;
  /** The newest offset that is known of. */
  head = 0;
  /** Who is there, once a listener for presence was set. */
  declare present: Presence | undefined;

  /** @internal */ declare _wire: Wire;
  /** @internal */ declare _clock: Clock;
  /** @internal */ _options: RoomOptions = {};
  /** @internal */ _publishing = new Publishing(this);
  /** The last offset that was counted; null until the room was joined for the first time. */
  /** @internal */ _offset: number | null = null;
  /** @internal */ _epoch = "";
  /** Since when nothing is missed, Unix milliseconds. */
  #readSince = 0;
  /** What comes is counted. It is not while a join is on its way that covers it. */
  /** @internal */ _isCounting = false;
  /** @internal */ _joinTurn = 0;
  #isJoinDue = false;
  #joinAttempt = 0;
  #joinTimer: unknown;
  /** @internal */ _gaps = 0;
  /** The reload that is under way. */
  /** @internal */ _reloading: object | undefined;
  /** Somebody was told a message. */
  #isHeard = false;
  /** One's own messages are asked for as such, since they can't be fetched. */
  #echo = false;
  /** Acknowledged before their place was reached. */
  /** @internal */ _early = new Map<number, Message<never>>();

  /** @internal */
  constructor(name: string, wire: Wire, clock: Clock) {
    super();
    this.name = name;
    this._wire = wire;
    this._clock = clock;
  }

  /** @internal Somebody comes, perhaps not as the first or for the first time, and wishes this. */
  _want(options: RoomOptions): void {
    const { last = 0, since } = options;
    const before = this._options;
    this._options = { ...before, ...options };
    if (this.#isHeard || (since ? since.offset === before.since?.offset : last <= (before.last ?? 0))) return;
    if (since) ({ offset: this._offset, epoch: this._epoch } = since);
    else this._offset = null;
    if (this.state !== "idle") this.#joinSoon();
  }

  /** Everything up to here was told. Keep it to go on from here in another life of the app (option `since`). */
  get position(): Position | undefined {
    return this._offset === null ? undefined : { offset: this._offset, epoch: this._epoch };
  }

  /**
   * Calls `listener` from now on, and joins the room unless `kind` is `change`, `end` or `rejected`. Returns the function that ends the
   * listening; the room stays joined until `leave()`.
   */
  override on<Kind extends keyof RoomKinds<T, E>>(kind: Kind, listener: Listener<RoomKinds<T, E>[Kind]>): () => void {
    const wasWatched = this.#isWatched();
    const end = super.on(kind, listener);
    if (this.state !== "idle" && this.#isWatched() && !wasWatched) this.#joinSoon();
    if (!/^(change|end|rejected)$/.test(kind as string)) this.join();
    return end;
  }

  #isWatched(): boolean {
    return WATCHED.some((kind) => this._has(kind));
  }

  /** Messages from now on, for as long as the loop runs: `for await (const message of room)`. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Message<T>, void, undefined> {
    // What has ended tells nothing more.
    if (this._wire.connection.state === "closed") return;
    this._wire._need();
    if (this.state === "refused") throw this.error;
    const buffer: Message<T>[] = [];
    let ended: { error?: CarillonError | undefined } | undefined;
    let wake = () => {};
    const end = (error?: CarillonError) => {
      ended ??= { error };
      unlisten();
      unlistenEnd();
      wake();
    };
    const unlistenEnd = this.on("end", end);
    const unlisten = this.on("message", (message) => {
      if (buffer.push(message) > ITERATOR_BUFFER_MAX) end(new CarillonError("slow_consumer", "read too slowly"));
      wake();
    });
    try {
      for (;;) {
        if (buffer.length) yield buffer.shift()!;
        else if (ended?.error) throw ended.error;
        else if (ended) return;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      end();
    }
  }

  /** Becomes a member, as the first listener does. */
  join(): void {
    if (this.state !== "idle") return;
    this.#enter("joining");
    this.#joinSoon();
  }

  /** Is no member any more, and forgets where it was. What waits to be published still is. */
  leave(): void {
    if (this.state === "idle") return;
    this._reloading = undefined;
    this.#isHeard = false;
    this._offset = null;
    this._epoch = "";
    this._early.clear();
    this.present = undefined;
    if (this._wire.connection.state === "connected") this._ask("leave", { atOnce: true }, ignore, ignore);
    this.#onNoMember();
    this.#enter("idle");
    this._emit("end", undefined);
    this._publishing.pump();
  }

  /**
   * Stores a message. Resolves once it is durable, with its place in the room; waits while there is no connection, and
   * is stored once, however often that breaks. Rejects with a `CarillonError` that has it as `publish`. Whoever does not look at
   * the promise can listen to `rejected`.
   */
  publish(payload: T, { key = randomId() }: PublishOptions = {}): Promise<Published> {
    const published = new Promise<Published>((resolve, reject) => {
      this._wire._need();
      if (this._wire._queued >= this._wire._queueLimit) throw { code: "queue_full", message: "too many wait" };
      const text = JSON.stringify(payload);
      if (text === undefined) throw { message: "not JSON" };
      this._publishing.add({ key, text, resolve, reject });
    }).catch(({ code = "bad_request", message, ...more }) => {
      const error = new CarillonError(code, message, { ...more, publish: { room: this.name, key, payload } });
      this._emit("rejected", error);
      throw error;
    });
    // Not an unhandled rejection for those who listen to `rejected`, or whose page shows what waits.
    published.catch(ignore);
    return published;
  }

  /**
   * Tells those who are there now; nothing is stored. Returns false if it was dropped: without a connection, or above
   * the rate or the size that the server allows.
   */
  ephemeral(payload: E): boolean {
    const { connection } = this._wire;
    const text = JSON.stringify({ type: "broadcast", room: this.name, ephemeral: true, payload });
    connection._start();
    return connection._fits(text) && connection._send(text, true);
  }

  /** A part of the room, oldest first: the newest messages, those below `before`, or those above `after`. */
  async history(options?: HistoryOptions): Promise<History<T>> {
    const { messages, more, epoch } = await this.#read("history", options);
    return { messages: messages.map((message) => this.#toMessage(message as Frame) as Message<T>), more, epoch };
  }

  /** Who is there now. For who comes and goes, listen to `presence`. */
  async presence(): Promise<Presence> {
    return presenceOf(await this.#read("presence"));
  }

  #read(type: string, options?: HistoryOptions): Promise<Frame> {
    return new Promise((resolve, reject) => {
      this._wire._need();
      this._ask(type, { again: true }, resolve, reject, options);
    });
  }

  /** @internal */
  _ask(type: string, options: AskOptions, done: (answer: Frame) => void, failed: (error: CarillonError, answer: Frame) => void, more?: object): void {
    this._wire._ask({ type, room: this.name, ...more }, options, done, failed);
  }

  // ------------------------------------------------------------------------------------------- connection

  /** @internal */
  _onConnected(): void {
    if (this.state !== "idle") this._join();
    this._publishing.pump();
  }

  /** @internal */
  _onGone(error?: CarillonError): void {
    this.#onNoMember();
    this._publishing.onDisconnected();
    if (this.state !== "idle") this.#enter("joining");
    if (!error) return;
    this._publishing.fail(error);
    this._emit("end", error.code === "closed" ? undefined : error);
  }

  /** @internal A frame that answers nothing. */
  _onFrame(frame: Frame): void {
    const { type } = frame;
    if (frame.ephemeral) this.#onEphemeral(frame);
    else if (type === "message" || type === "own") this.#onStored(frame);
    else if (type === "joined") this.#onJoined(frame);
    else if (type === "userJoined" || type === "userLeft") this.#onPresence(frame);
    else if (type === "left") this.#onLeft();
    this._settle();
  }

  // ------------------------------------------------------------------------------------------- membership

  /** Not at once: listeners that are set together ask together. */
  #joinSoon(): void {
    if (this.#isJoinDue) return;
    this.#isJoinDue = true;
    queueMicrotask(() => {
      this.#isJoinDue = false;
      if (this.state === "idle") return;
      this._wire.connection._start();
      this._join();
    });
  }

  /** @internal */
  _join(): void {
    if (this._wire.connection.state !== "connected" || this._reloading) return;
    const turn = ++this._joinTurn;
    this._clock.clearTimeout(this.#joinTimer);
    this._isCounting = false;
    const since = this._offset;
    const place = since === null ? { last: this._options.last } : { since, epoch: this._epoch };
    this._ask("join", { atOnce: true }, (joined) => {
      if (turn !== this._joinTurn) return;
      this.#joinAttempt = 0;
      if (this.state === "refused") this.#enter("joining");
      this.#onJoined(joined);
      this._settle();
    }, (error, { retryAfterMs }) => {
      if (turn !== this._joinTurn) return;
      this.#onNoMember();
      this.error = error;
      if (!mayRetry(error.code)) return this.#onRefused(error);
      this.#enter("joining");
      this._publishing.pump();
      this.#joinLater(retryAfterMs);
    }, { ...place, presence: this.#isWatched(), echo: this.#echo });
  }

  #joinLater(ms = backoffMs(this.#joinAttempt++, this._clock.random)): void {
    this.#joinTimer = this._clock.setTimeout(() => this._join(), ms);
  }

  #onJoined(frame: Frame): void {
    const { offset: head, epoch, recovered, reason, members, truncated, count } = frame;
    this._isCounting = true;
    this.error = undefined;
    if (members) this.#show(presenceOf(frame));
    // Only an answer to this very question counts those who are not named.
    if (truncated && !count) this.presence().then((present) => this.#show(present), ignore);
    if (!recovered && this._offset !== null) return this.#onGap(reason ?? "epoch", head, epoch);
    this._gaps = 0;
    this.head = head;
    this._epoch = epoch;
    if (this._offset !== null) return;
    this.#readSince = this._clock.now();
    // With `last`, the first message tells where our part of the log begins.
    if (!(this._options.last && head)) this._offset = head;
  }

  #onRefused(error: CarillonError): void {
    if (this.state === "refused") return;
    this.#enter("refused");
    this._emit("end", error);
    this._publishing.pump();
  }

  /** Unasked: a newer token does not open this room any more, or the server gave up. Asking again tells which. */
  #onLeft(): void {
    if (!this._isCounting) return; // The join that is on its way will tell.
    this.#onNoMember();
    this.#enter("joining");
    this.#joinSoon();
  }

  #onNoMember(): void {
    this._joinTurn += 1;
    this._isCounting = false;
    this._clock.clearTimeout(this.#joinTimer);
  }

  /** Messages are gone. What comes now comes again. */
  #onGap(reason: "trimmed" | "epoch", head: number, epoch: string): void {
    const turn = this._joinTurn;
    this._isCounting = false;
    import("./gap.js").then(({ report }) => turn === this._joinTurn && report(this, reason, head, epoch), () => this.#joinLater());
  }

  /** @internal */
  _failed(message: string): void {
    this.error = new CarillonError("reload_failed", message);
  }

  // --------------------------------------------------------------------------------------------- counting

  #onStored(frame: Frame): void {
    // Whatever it is a repeat of, or whatever comes later again: a key is a key. Only one's own messages have one.
    const publish = this._publishing.settleKey(frame.key, frame);
    if (!this._isCounting) return;
    const { offset, epoch } = frame;
    if (offset === 1 && epoch && epoch !== this._epoch) {
      // The room begins another life before our eyes.
      if (this._offset) return this.#onGap("epoch", 1, epoch);
      this._epoch = epoch;
    }
    this._offset ??= offset - 1;
    if (offset <= this._offset) return;
    if (offset > this._offset + 1) return this._join();
    if (publish) this._early.set(offset, this.#toOwn(publish, frame));
    else if (frame.type === "own" && !this._early.has(offset)) return this.#fetch();
    else if (frame.type !== "own") this._early.set(offset, this.#toMessage(frame));
    this.#countEarly();
  }

  /** @internal */
  _isOpen(): boolean {
    // What can't be joined for now, for one without a grant for its history over the fallback, can be written to all the same.
    return this._wire.connection.state === "connected" && (this.state !== "joining" || Boolean(this.error));
  }

  /** @internal */
  _isReadSince(time: number): boolean {
    // Where own messages come like all others, no frame tells the key.
    return this.state === "live" && !this.#echo && this.#readSince <= time;
  }

  /** @internal */
  _onStored(publish: Publish, ack: Frame): void {
    const { offset, duplicate } = ack;
    if (this._offset === null) return;
    if (offset > this._offset) {
      this._early.set(offset, this.#toOwn(publish, ack));
      this.#countEarly();
      if (offset === 1 && !this._epoch) this.#learnEpoch();
    } else if (!duplicate && this._isCounting) {
      // Only another life of the room can give out an offset for the second time.
      this._join();
    }
    this._settle();
  }

  #countEarly(): void {
    for (let next; this._isCounting && (next = this._early.get(this._offset! + 1)); ) this.#count(next);
  }

  #count(message: Message<never>): void {
    this._offset = message.offset;
    this.head = Math.max(this.head, message.offset);
    this._early.delete(message.offset);
    this.#isHeard ||= this._has("message");
    this._emit("message", message);
  }

  /** One's own messages of an earlier life of this app come without payload: this part is read from the history. */
  #fetch(): void {
    this._isCounting = false;
    const turn = ++this._joinTurn;
    const goOn = (messages: Frame["messages"]) => {
      if (turn !== this._joinTurn) return;
      for (const message of messages) if (message.offset > this._offset!) this.#count(this.#toMessage(message as Frame));
      this._join();
    };
    this._ask("history", {}, ({ messages }) => goOn(messages), () => {
      // Not allowed to read: as a member it may be told its own messages like all others.
      this.#echo = true;
      goOn([]);
    }, { after: this._offset, limit: HISTORY_LIMIT_MAX });
  }

  /** Who writes a room's first message is not sent it, and so learns the name of its life by asking. */
  #learnEpoch(): void {
    const learn = ({ epoch }: Frame) => void (this._epoch ||= epoch);
    this._ask("history", {}, learn, ignore, { limit: 1 });
  }

  /** @internal Up to date: what waits to be published may go. */
  _settle(): void {
    if (this.state !== "joining" || !this._isCounting || this._offset === null || this._offset < this.head) return;
    this.#enter("live");
    this._publishing.pump();
  }

  #toOwn({ key, text }: Publish, frame: Frame): Message<never> {
    return this.#toMessage({ ...frame, payload: JSON.parse(text), sender: this._wire.connection.userId!, key });
  }

  #toMessage({ offset, payload, sender, id, ts, key }: Frame): Message<never> {
    return { room: this.name, offset, payload: payload as never, sender, id, ts, own: sender === this._wire.connection.userId, ...(key && { key }) };
  }

  // --------------------------------------------------------------------------------------------- presence

  #onEphemeral({ payload, sender, ts }: Frame): void {
    this._emit("ephemeral", { room: this.name, payload: payload as E, sender, ts });
  }

  #onPresence({ type, user, count }: Frame): void {
    const member: Member = { userId: user.id, ...(user.info && { info: user.info }) };
    const others = (this.present?.members ?? []).filter(({ userId }) => userId !== user.id);
    const members = type === "userJoined" ? [...others, member] : others;
    this._emit(type as "userJoined" | "userLeft", member);
    this.#show({ count, members, truncated: count > members.length });
  }

  #show(present: Presence): void {
    this.present = present;
    this._emit("presence", present);
  }

  #enter(state: RoomState): void {
    if (this.state === state) return;
    this.state = state;
    this._emit("change", state);
  }
}

function presenceOf({ members, count = members!.length, truncated }: Frame): Presence {
  return { count, members: members!, truncated: Boolean(truncated) };
}
