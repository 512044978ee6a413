// Where WebSocket is blocked: a socket that speaks the frames of the WebSocket, and reads by Server-Sent Events and writes by
// HTTP. So nothing else of the SDK knows the difference.
//
// It is taken on evidence only: HTTP reaches the server, and a WebSocket at the same time does not. A server that was away for
// a while lets both through again.
//
// Each room is read from the history up to its head, behind an open feed of live messages; both are joined by offset. That
// takes the grant `history`; a room without it waits until WebSocket is possible, and can be written to meanwhile. A feed that
// breaks ends the socket, and the next one begins where the rooms are. A tab that has no place for a feed (see `places.ts`) asks for it
// as long as it takes to begin, and then reads the history of its rooms every two seconds instead.

import type { CarillonOptions } from "./carillon.js";
import type { Clock } from "./clock.js";
import type { SocketLike } from "./connection.js";
import { WEBSOCKET_WORKS } from "./limits.js";
import { takePlace } from "./places.js";
import { readFields } from "./sse.js";

/** A feed takes 64 rooms, of which one is the personal room. */
const ROOMS_MAX = 63;
const PAGE = 1_000;
/** Messages that wait for one before them; beyond that the socket ends, and the room is read anew. */
const HELD_MAX = 10_000;
/** A hole in the offsets is one's own publish, whose answer is on its way; if not, the history has it. */
const HOLE_MS = 300;
/** The server says something every 30 s, if only a comment. */
const SILENT_MS = 75_000;
/** Who is there is asked for now and then: feeds don't tell. */
const PRESENCE_EVERY_MS = 10_000;
/** Who is refused for now, or for as long as there is no WebSocket, asks again after this time. */
const REFUSED_AGAIN_MS = 30_000;
/** What is not answered by then is in doubt, and this socket ends. Less than what `connection.ts` gives a whole attempt. */
const REQUEST_WITHIN_MS = 9_000;
/** Without a feed, what is new is asked for; less often where there are many rooms, since all requests of a user share one rate. */
const POLL_EVERY_MS = 2_000;
const POLL_ROOM_MS = 200;
/** A WebSocket that says nothing for this long, while HTTP is answered, is blocked. */
const PROBE_WITHIN_MS = 4_000;
/** WebSocket is looked for again after this time, and then less and less often. */
const PROBE_FIRST_MS = 30_000;
const PROBE_MAX_MS = 600_000;

/** As `error.ts` has it, repeated so that this file shares nothing and is loaded alone. */
const MAY_RETRY = /^(unavailable|internal|rate_limited)$/;
const UNANSWERED = `no answer within ${REQUEST_WITHIN_MS / 1_000} s (over HTTP/1.1, all tabs of a browser share six connections to a host)`;

type Json = Record<string, any>;

interface Joined {
  name: string;
  /** The last offset that was handed on. */
  offset: number;
  /** The life of the room that it is in, as far as it is known. */
  epoch: string;
  /** Read from the history at present: what the feed says is held. */
  isReading: boolean;
  /** Live messages that wait for the ones before them; null stands for one that was acknowledged. */
  held: Map<number, Json | null>;
  holeTimer: unknown;
  isWatched: boolean;
  here: Map<string, Json> | undefined;
  watchTimer: unknown;
}

/** Publishes to a room without an answer, one after the other: that is the order in which they are stored. */
interface Posting {
  last: Promise<void>;
  count: number;
  /** One was refused for now. Those behind it must not be stored before it, and are answered the same. */
  refused?: Json;
}

/** Opens once the server lets the user read the personal room. */
export async function open(url: URL, token: string, options: CarillonOptions, clock: Clock, clientId: string, probe?: () => SocketLike): Promise<SocketLike> {
  return new FallbackSocket(url, token, options.fetch ?? globalThis.fetch.bind(globalThis), clock, clientId, probe);
}

class FallbackSocket implements SocketLike {
  onopen = null;
  onerror = null;
  onmessage: SocketLike["onmessage"] = null;
  onclose: SocketLike["onclose"] = null;

  #user: string;
  #expiresAt: number | undefined;
  #rooms = new Map<string, Joined>();
  #ending = new AbortController();
  #postings = new Map<string, Posting>();
  /** Rooms that are being told something ephemeral. */
  #telling = new Set<string>();
  #feed: AbortController | undefined;
  /** Gives back what this tab has of the browser's feeds; without one, it asks now and then. */
  #place: (() => void) | undefined;
  #pollTimer: unknown;
  #feedRooms = new Set<string>();
  #isFeedDue = false;
  #isConnected = false;
  #isProbing = false;
  #heardAt: number;
  #probeMs = PROBE_FIRST_MS;

  constructor(
    private readonly _url: URL,
    private _token: string,
    private readonly _fetch: typeof fetch,
    private readonly _clock: Clock,
    private readonly _clientId: string,
    private readonly _probe: (() => SocketLike) | undefined,
  ) {
    this.#heardAt = _clock.now();
    ({ user: this.#user, expiresAt: this.#expiresAt } = claimsOf(_token));
    // As with any socket, nothing happens before its owner has had the time to listen.
    _clock.setTimeout(() => void this.#takePlace().then(() => this.#feedSoon()), 0);
  }

  close(): void {
    this.#ending.abort();
    this.#place?.();
    this._clock.clearTimeout(this.#pollTimer);
    for (const room of this.#rooms.values()) this.#forget(room);
    this.onmessage = this.onclose = null;
  }

  send(text: string): void {
    const frame = JSON.parse(text) as Json;
    const { type, ref, room } = frame;
    if (type === "join") void this.#join(frame);
    else if (type === "leave") this.#leave(frame);
    else if (type === "broadcast") this.#post(frame);
    else if (type === "history") void this.#answer(frame, this.#messages(room, frame));
    else if (type === "presence") void this.#answer(frame, this.#get(`rooms/${encodeURIComponent(room)}/presence`));
    else if (type === "refresh") this.#refresh(frame);
    else if (type === "ping" && this._clock.now() - this.#heardAt < SILENT_MS) this.#say({ type: "pong", ref });
  }

  #say(frame: Json): void {
    if (!this.#ending.signal.aborted) this.onmessage?.({ data: JSON.stringify(frame) });
  }

  #end(code: number, reason = ""): void {
    const { onclose } = this;
    if (this.#ending.signal.aborted) return;
    this.close();
    onclose?.({ code, reason });
  }

  // ------------------------------------------------------------------------------------------------- feed

  /** Not at once: rooms that are joined together are read by one feed. */
  #feedSoon(): void {
    if (this.#isFeedDue) return;
    this.#isFeedDue = true;
    queueMicrotask(() => {
      this.#isFeedDue = false;
      if (!this.#ending.signal.aborted) void this.#openFeed();
    });
  }

  async #takePlace(): Promise<void> {
    this.#place = await takePlace(this._url.host);
    if (this.#ending.signal.aborted) this.#place?.();
  }

  /** Another feed, with all rooms of now. The one before goes on until this one has begun, so that nothing falls between. */
  async #openFeed(): Promise<void> {
    const before = this.#feed;
    const feed = new AbortController();
    const rooms = new Set([`user:${this.#user}`, ...this.#rooms.keys()]);
    const query = new URLSearchParams([...rooms].map((room) => ["room", room]));
    query.set("client", this._clientId);
    this.#feed = feed;
    this.#ending.signal.addEventListener("abort", () => feed.abort());
    let retry: string | undefined;
    let event = { type: "message", data: "" };
    const isCurrent = () => this.#feed === feed && !feed.signal.aborted;
    try {
      const answer = await this.#within(this.#fetch(`events?${query}`, { headers: { Accept: "text/event-stream" }, signal: feed.signal }));
      if (answer.status === 403) return isCurrent() ? await this.#onForbidden(rooms, before, isCurrent) : undefined;
      if (!answer.ok || !answer.body) return isCurrent() ? this.#onStatus(answer.status) : undefined;
      let hasBegun = false;
      let hasId = false;
      await readFields(answer.body, (name, value) => {
        this.#heardAt = this._clock.now();
        retry = name === "retry" ? value : name === "dispatch" ? retry : undefined;
        if (name === "event") event.type = value;
        else if (name === "data") event.data += value + "\n";
        else if (name === "id") hasId = true;
        else if (name === "dispatch") {
          // A feed that was replaced may still bring what the next one began behind.
          if (event.data && !this.#ending.signal.aborted) this.#onEvent(event.type, event.data.slice(0, -1));
          else if (hasId && !hasBegun && isCurrent()) {
            // An `id` without an event: from here on, all rooms are fed.
            hasBegun = true;
            before?.abort();
            this.#onBegun(rooms);
          }
          event = { type: "message", data: "" };
          hasId = false;
        }
      });
    } catch {
      // The network's fault, or aborted.
    }
    if (!isCurrent()) return;
    // A server that leaves says when to come back, and nothing after that.
    if (retry === undefined) this.#end(1006);
    else this.#end(4200, `draining retry_ms=${retry}`);
  }

  /** Rooms to be fed → what to do when they are, and what asked for it. */
  #onFed = new Map<string, { begin: () => void; ref: unknown }>();

  #onBegun(rooms: Set<string>): void {
    this.#feedRooms = rooms;
    // HTTP reaches the server. If a WebSocket does so too by now, this way is not needed.
    if (!this.#isConnected) this.#probe(() => this.#connected());
    if (!this.#place) {
      this.#feed?.abort();
      this.#pollLater();
    }
    for (const [room, { begin }] of [...this.#onFed]) {
      if (!rooms.has(room)) continue;
      this.#onFed.delete(room);
      begin();
    }
  }

  #pollLater(ms = Math.max(POLL_EVERY_MS, this.#rooms.size * POLL_ROOM_MS)): void {
    const onFailed = (error: unknown) => {
      if (error instanceof Refused && MAY_RETRY.test(error.fields.code)) this.#pollLater(error.fields.retryAfterMs);
      else this.#onFailed(error);
    };
    this._clock.clearTimeout(this.#pollTimer);
    this.#pollTimer = this._clock.setTimeout(() => void this.#poll().catch(onFailed), ms);
  }

  /** Reads what is new, one room after the other, unless there is a place for a feed by now. */
  async #poll(): Promise<void> {
    await this.#takePlace();
    if (this.#place) return this.#feedSoon();
    for (const room of [...this.#rooms.values()]) {
      // To be read again, should it be refused for now.
      if (!room.isReading) await this.#read(room).finally(() => (room.isReading = false));
    }
    if (!this.#ending.signal.aborted) this.#pollLater();
  }

  #connected(): void {
    if (this.#isConnected) return;
    this.#isConnected = true;
    this.#probeLater();
    this.#say({ type: "connected", userId: this.#user, clientId: this._clientId, expiresAt: this.#expiresAt, limits: { rooms: ROOMS_MAX } });
  }

  /** Some room may not be joined, or not any more with a newer token. The others must not go without a feed for it. */
  async #onForbidden(rooms: Set<string>, before: AbortController | undefined, isCurrent: () => boolean): Promise<void> {
    let isFound = false;
    for (const room of rooms) {
      const trying = new AbortController();
      const answer = await this.#within(this.#fetch(`events?${new URLSearchParams({ room })}`, { signal: trying.signal })).catch(() => undefined);
      trying.abort();
      if (!isCurrent()) return;
      if (answer?.status !== 403) continue;
      // The personal room is open to whoever the token is for.
      const joined = this.#rooms.get(room);
      if (!joined) return this.#onStatus(403);
      isFound = true;
      const asked = this.#onFed.get(room);
      this.#forget(joined);
      this.#feedRooms.delete(room);
      if (!asked) this.#say({ type: "left", room });
      this.#say({ type: "error", ref: asked?.ref, room, code: "forbidden", message: "the token does not allow this" });
    }
    // None of them alone: so it is not a room's fault, and to ask again at once would not help.
    if (!isFound) return this.#end(1006);
    this.#feed = before;
    this.#feedSoon();
  }

  #onEvent(type: string, data: string): void {
    const frame = JSON.parse(data) as Json;
    const room = this.#rooms.get(frame.room);
    if (type === "gap") return room && this.#end(1006); // To be read anew, from where it is.
    if (type !== "message" || !room) return;
    if (frame.ephemeral) return this.#say(frame);
    const isAnotherLife = frame.offset === 1 && frame.epoch && room.offset > 0 && !room.isReading;
    if (isAnotherLife) return this.#say(frame);
    if (frame.offset <= room.offset) return;
    room.held.set(frame.offset, frame);
    if (room.held.size > HELD_MAX) return this.#end(1006);
    this.#handOn(room);
  }

  /** Hands on what follows; a hole is filled from the history, unless an answer is on its way that may fill it. */
  #handOn(room: Joined): void {
    if (room.isReading) return;
    for (let next; (next = room.held.get(room.offset + 1)) !== undefined; ) {
      room.offset += 1;
      room.held.delete(room.offset);
      if (next) this.#say(next);
    }
    for (const offset of room.held.keys()) if (offset <= room.offset) room.held.delete(offset);
    this._clock.clearTimeout(room.holeTimer);
    if (room.held.size === 0 || this.#postings.has(room.name)) return;
    room.holeTimer = this._clock.setTimeout(() => void this.#read(room).catch((error) => this.#onFailed(error)), HOLE_MS);
  }

  // ------------------------------------------------------------------------------------------------ rooms

  async #join(frame: Json): Promise<void> {
    const { room: name, ref } = frame;
    if (!this.#rooms.has(name) && this.#rooms.size >= ROOMS_MAX) {
      return this.#say({ type: "error", ref, room: name, code: "too_many_rooms", message: `without WebSocket there are at most ${ROOMS_MAX}` });
    }
    const before = this.#rooms.get(name);
    if (before) this.#forget(before);
    const room: Joined = {
      name, offset: 0, epoch: "", isReading: true, held: new Map(), holeTimer: undefined, isWatched: Boolean(frame.presence), here: undefined, watchTimer: undefined,
    };
    this.#rooms.set(name, room);
    const begin = () => void this.#begin(room, frame).catch((error) => this.#onRefused(error, room, frame));
    if (this.#feedRooms.has(name)) return begin();
    this.#onFed.set(name, { begin, ref });
    this.#feedSoon();
  }

  /** It can't be read, and is not kept half joined. By WebSocket it could be read without a grant for its history. */
  #onRefused(error: unknown, room: Joined, frame: Json): void {
    if (this.#rooms.get(room.name) !== room) return;
    if (error instanceof Refused) this.#forget(room);
    if (error instanceof Refused && error.status === 403) {
      Object.assign(error.fields, { code: "unavailable", message: "without WebSocket, this room takes the grant `history`", retryAfterMs: REFUSED_AGAIN_MS });
    }
    this.#onFailed(error, frame);
  }

  /** The feed runs: reads what was missed, and says `joined` as the server would. */
  async #begin(room: Joined, { ref, since, epoch, last }: Json): Promise<void> {
    const newest = await this.#messages(room.name, { limit: since === undefined ? Math.max(1, Math.min(last ?? 0, PAGE)) : 1 });
    if (this.#rooms.get(room.name) !== room) return;
    const head: number = newest.messages.at(-1)?.offset ?? 0;
    room.epoch = newest.epoch;
    const present = room.isWatched && (await this.#watch(room));
    if (this.#rooms.get(room.name) !== room) return;
    const joined = { type: "joined", ref, room: room.name, offset: head, epoch: newest.epoch, recovered: true, ...present };
    const refuse = (reason: string) => {
      this.#goLive(room, head);
      this.#say({ ...joined, recovered: false, reason });
      this.#handOn(room);
    };
    if (since === undefined) {
      const first = last ? newest.messages[0]?.offset : undefined;
      this.#say(joined);
      if (first !== undefined) for (const message of newest.messages) this.#say({ type: "message", ...message });
      this.#goLive(room, head);
      return this.#handOn(room);
    }
    if (since > head || (epoch && since > 0 && epoch !== newest.epoch)) return refuse("epoch");
    const page = since < head ? await this.#messages(room.name, { after: since, limit: PAGE }) : { messages: [], more: false };
    if (this.#rooms.get(room.name) !== room) return;
    if (since < head && page.messages[0]?.offset !== since + 1) return refuse("trimmed");
    this.#say(joined);
    room.offset = since;
    this.#take(room, page.messages);
    await this.#read(room, page.more);
  }

  /** Reads the room from where it is to its head. */
  async #read(room: Joined, isMore = true): Promise<void> {
    room.isReading = true;
    while (isMore) {
      const { messages, more, epoch } = await this.#messages(room.name, { after: room.offset, limit: PAGE });
      if (this.#rooms.get(room.name) !== room) return;
      // It began another life: what is missing is to be found out by joining.
      if (epoch && room.epoch && epoch !== room.epoch) return this.#end(1006);
      room.epoch ||= epoch;
      // Retention took what comes next: the room is to be joined anew.
      if (messages.length && messages[0].offset > room.offset + 1) return this.#end(1006);
      this.#take(room, messages);
      isMore = more;
    }
    this.#goLive(room, room.offset);
    this.#handOn(room);
  }

  #take(room: Joined, messages: Json[]): void {
    for (const message of messages) {
      if (message.offset <= room.offset) continue;
      room.offset = message.offset;
      this.#say({ type: "message", ...message, ...(message.offset === 1 && { epoch: room.epoch }) });
    }
  }

  #goLive(room: Joined, offset: number): void {
    room.offset = offset;
    room.isReading = false;
  }

  #leave({ room: name, ref }: Json): void {
    const room = this.#rooms.get(name);
    if (!room) return this.#say({ type: "error", ref, room: name, code: "not_joined", message: "" });
    this.#forget(room);
    this.#say({ type: "left", ref, room: name });
  }

  #forget(room: Joined): void {
    this.#rooms.delete(room.name);
    this.#onFed.delete(room.name);
    this._clock.clearTimeout(room.holeTimer);
    this._clock.clearTimeout(room.watchTimer);
  }

  /** Who is there, and from now on who comes and goes. */
  async #watch(room: Joined): Promise<Json> {
    const { count, members, truncated } = await this.#get(`rooms/${encodeURIComponent(room.name)}/presence`);
    if (this.#rooms.get(room.name) !== room) return {};
    const here = new Map<string, Json>(members.map((member: Json) => [member.userId, member]));
    const before = room.here;
    room.here = here;
    const tell = (type: string, { userId: id, info }: Json) => this.#say({ type, room: room.name, user: { id, info }, count });
    if (before) {
      for (const [userId, member] of here) if (!before.has(userId)) tell("userJoined", member);
      for (const [userId, member] of before) if (!here.has(userId)) tell("userLeft", member);
    }
    this.#watchLater(room, PRESENCE_EVERY_MS);
    return { count, members, truncated };
  }

  /** Who may not know any more who is there, or asks too often, goes without for a while: the messages still come. */
  #watchLater(room: Joined, ms: number): void {
    const onFailed = (error: unknown) => {
      if (!(error instanceof Refused) || error.status === 401) this.#onFailed(error);
      else if (this.#rooms.get(room.name) === room) this.#watchLater(room, error.fields.retryAfterMs ?? REFUSED_AGAIN_MS);
    };
    room.watchTimer = this._clock.setTimeout(() => void this.#watch(room).catch(onFailed), ms);
  }

  // ------------------------------------------------------------------------------------------------- HTTP

  #post(frame: Json): void {
    const { room: name, ref, payload, key, ephemeral } = frame;
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ payload, key, ephemeral }) };
    const post = () => this.#ask(`rooms/${encodeURIComponent(name)}/messages`, request);
    if (ephemeral) return this.#postEphemeral(name, post);
    const posting = this.#postings.get(name) ?? { last: Promise.resolve(), count: 0 };
    this.#postings.set(name, posting);
    posting.count += 1;
    posting.last = posting.last.then(async () => {
      try {
        if (posting.refused) throw new Refused(503, posting.refused);
        const ack = await post();
        this.#say({ type: "ack", ref, ...ack });
        const room = this.#rooms.get(name);
        if (room && ack.offset > room.offset) room.held.set(ack.offset, null);
      } catch (error) {
        if (error instanceof Refused && MAY_RETRY.test(error.fields.code)) posting.refused = error.fields;
        this.#onFailed(error, frame);
      }
      if (--posting.count === 0) this.#postings.delete(name);
      const room = this.#rooms.get(name);
      if (room) this.#handOn(room);
    });
  }

  /** What may be lost does not queue up, and nothing that is to be stored waits for it. */
  #postEphemeral(room: string, post: () => Promise<Json>): void {
    if (this.#telling.has(room) || this.#postings.has(room)) return;
    this.#telling.add(room);
    void post().catch((error) => this.#onFailed(error, {})).then(() => this.#telling.delete(room));
  }

  #messages(room: string, { after, before, limit }: Json): Promise<Json> {
    const given = Object.entries({ after, before, limit }).filter(([, value]) => value !== undefined);
    return this.#get(`rooms/${encodeURIComponent(room)}/messages?${new URLSearchParams(given as [string, string][])}`);
  }

  #get(path: string): Promise<Json> {
    return this.#ask(path, {});
  }

  async #ask(path: string, request: RequestInit): Promise<Json> {
    const [answer, body] = await this.#within(this.#fetch(path, { ...request, signal: this.#ending.signal }).then(async (answer) => {
      this.#heardAt = this._clock.now();
      return [answer, (await answer.json()) as Json] as const;
    }));
    if (answer.ok) return body;
    const retryAfterMs = body.retryAfterMs ?? (Number(answer.headers.get("Retry-After")) * 1_000 || undefined);
    throw new Refused(answer.status, { code: body.code ?? "internal", message: body.detail ?? "", retryAfterMs, outcome: body.outcome });
  }

  /** What takes too long ends this socket, and so itself. */
  async #within<T>(asked: Promise<T>): Promise<T> {
    const timer = this._clock.setTimeout(() => this.#end(1006, UNANSWERED), REQUEST_WITHIN_MS);
    try {
      return await asked;
    } finally {
      this._clock.clearTimeout(timer);
    }
  }

  #fetch(path: string, request: RequestInit): Promise<Response> {
    return this._fetch(new URL(path, this._url), { ...request, headers: { ...request.headers, Authorization: `Bearer ${this._token}`, "Carillon-Client": this._clientId } });
  }

  async #answer(frame: Json, asked: Promise<Json>): Promise<void> {
    try {
      this.#say({ type: frame.type, ref: frame.ref, room: frame.room, ...(await asked) });
    } catch (error) {
      this.#onFailed(error, frame);
    }
  }

  /** What the server refused is an error of the frame that asked; all else is the network's, and ends the socket. */
  #onFailed(error: unknown, frame?: Json): void {
    if (!(error instanceof Refused)) return this.#end(1006, error instanceof Error ? error.message : "");
    if (error.status === 401) return this.#onStatus(401);
    if (frame) this.#say({ type: "error", ref: frame.ref, room: frame.room, ...error.fields });
    else this.#end(1006);
  }

  #onStatus(status: number): void {
    if (status !== 401 && status !== 403) return this.#end(1006);
    const isOver = this.#expiresAt !== undefined && this.#expiresAt <= this._clock.now();
    this.#end(isOver ? 4004 : 4001, isOver ? "token_expired" : "unauthorized");
  }

  /** A newer token for what is asked from now on, the feed included. */
  #refresh({ token, ref }: Json): void {
    const { user, expiresAt } = claimsOf(token);
    if (user !== this.#user) return this.#end(4001, "unauthorized");
    this._token = token;
    this.#expiresAt = expiresAt;
    this.#feedSoon();
    this.#say({ type: "refreshed", ref, expiresAt });
  }

  // ------------------------------------------------------------------------------------------------ probe

  #probeLater(): void {
    if (!this._probe) return;
    const timer = this._clock.setTimeout(() => this.#probe(() => this.#probeLater()), this.#probeMs);
    this.#probeMs = Math.min(this.#probeMs * 2, PROBE_MAX_MS);
    this.#ending.signal.addEventListener("abort", () => this._clock.clearTimeout(timer));
  }

  /**
   * Is WebSocket possible after all? The first frame tells, or a close that only the server makes; an open socket alone may be a
   * proxy's. Calls `otherwise` if not.
   */
  #probe(otherwise: () => void): void {
    if (!this._probe) return otherwise();
    if (this.#isProbing) return;
    this.#isProbing = true;
    const socket = this._probe();
    const stop = () => {
      this.#isProbing = false;
      this._clock.clearTimeout(timer);
      this.#ending.signal.removeEventListener("abort", stop);
      socket.onmessage = socket.onclose = null;
      socket.close();
    };
    const fail = () => {
      stop();
      otherwise();
    };
    const works = () => {
      stop();
      this.#end(WEBSOCKET_WORKS, "retry_ms=0");
    };
    const timer = this._clock.setTimeout(fail, PROBE_WITHIN_MS);
    socket.onerror = () => {};
    socket.onmessage = works;
    socket.onclose = ({ code }) => (code >= 4000 ? works() : fail());
    this.#ending.signal.addEventListener("abort", stop);
  }
}

class Refused extends Error {
  constructor(readonly status: number, readonly fields: Json) {
    super(fields.message);
  }
}

/** Who the token is for, and until when. The server checks it; nobody else has to. */
function claimsOf(token: string): { user: string; expiresAt: number | undefined } {
  const claims = token.split(".")[1] ?? "";
  try {
    const bytes = Uint8Array.from(atob(claims.replace(/-/g, "+").replace(/_/g, "/")), (char) => char.charCodeAt(0));
    const { sub, exp } = JSON.parse(new TextDecoder().decode(bytes)) as { sub: string; exp?: number };
    return { user: sub, expiresAt: exp === undefined ? undefined : exp * 1_000 };
  } catch {
    return { user: "", expiresAt: undefined };
  }
}
