// Built from clients/typescript by its build.js; do not edit.
var __defProp = Object.defineProperty;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __esm = (fn, res, err) => function __init() {
  if (err) throw err[0];
  try {
    return fn && (res = (0, fn[__getOwnPropNames(fn)[0]])(fn = 0)), res;
  } catch (e) {
    throw err = [e], e;
  }
};
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};

// src/sse.ts
async function readFields(body, onField) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  for (; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) readLine(line, onField);
  }
}
function readLine(line, onField) {
  if (line === "") return onField("dispatch", "");
  const colon = line.indexOf(":");
  if (colon < 0) return onField(line, "");
  onField(line.slice(0, colon), line.slice(colon + 1).replace(/^ /, ""));
}
var init_sse = __esm({
  "src/sse.ts"() {
    "use strict";
  }
});

// src/fallback.ts
var fallback_exports = {};
__export(fallback_exports, {
  open: () => open
});
async function open(url, token, options, clock, clientId, probe) {
  return new FallbackSocket(url, token, options.fetch ?? globalThis.fetch.bind(globalThis), clock, clientId, probe);
}
function claimsOf(token) {
  const claims = token.split(".")[1] ?? "";
  try {
    const bytes = Uint8Array.from(atob(claims.replace(/-/g, "+").replace(/_/g, "/")), (char) => char.charCodeAt(0));
    const { sub, exp } = JSON.parse(new TextDecoder().decode(bytes));
    return { user: sub, expiresAt: exp === void 0 ? void 0 : exp * 1e3 };
  } catch {
    return { user: "", expiresAt: void 0 };
  }
}
var ROOMS_MAX, PAGE, HELD_MAX, HOLE_MS, SILENT_MS, PRESENCE_EVERY_MS, REFUSED_AGAIN_MS, PROBE_WITHIN_MS, PROBE_FIRST_MS, PROBE_MAX_MS, WEBSOCKET_WORKS, FallbackSocket, Refused;
var init_fallback = __esm({
  "src/fallback.ts"() {
    "use strict";
    init_sse();
    ROOMS_MAX = 63;
    PAGE = 1e3;
    HELD_MAX = 1e4;
    HOLE_MS = 300;
    SILENT_MS = 75e3;
    PRESENCE_EVERY_MS = 1e4;
    REFUSED_AGAIN_MS = 3e4;
    PROBE_WITHIN_MS = 5e3;
    PROBE_FIRST_MS = 3e4;
    PROBE_MAX_MS = 6e5;
    WEBSOCKET_WORKS = 4299;
    FallbackSocket = class {
      constructor(_url, _token, _fetch, _clock, _clientId, _probe) {
        this._url = _url;
        this._token = _token;
        this._fetch = _fetch;
        this._clock = _clock;
        this._clientId = _clientId;
        this._probe = _probe;
        this.onopen = null;
        this.onerror = null;
        this.onmessage = null;
        this.onclose = null;
        this.#rooms = /* @__PURE__ */ new Map();
        this.#ending = new AbortController();
        this.#postings = /* @__PURE__ */ new Map();
        /** Rooms that are being told something ephemeral. */
        this.#telling = /* @__PURE__ */ new Set();
        this.#feedRooms = /* @__PURE__ */ new Set();
        this.#isFeedDue = false;
        this.#isConnected = false;
        this.#isProbing = false;
        this.#probeMs = PROBE_FIRST_MS;
        /** Rooms to be fed → what to do when they are, and what asked for it. */
        this.#onFed = /* @__PURE__ */ new Map();
        this.#heardAt = _clock.now();
        ({ user: this.#user, expiresAt: this.#expiresAt } = claimsOf(_token));
        _clock.setTimeout(() => this.#feedSoon(), 0);
      }
      #user;
      #expiresAt;
      #rooms;
      #ending;
      #postings;
      #telling;
      #feed;
      #feedRooms;
      #isFeedDue;
      #isConnected;
      #isProbing;
      #heardAt;
      #probeMs;
      close() {
        this.#ending.abort();
        for (const room of this.#rooms.values()) this.#forget(room);
        this.onmessage = this.onclose = null;
      }
      send(text) {
        const frame = JSON.parse(text);
        const { type, ref, room } = frame;
        if (type === "join") void this.#join(frame);
        else if (type === "leave") this.#leave(frame);
        else if (type === "broadcast") this.#post(frame);
        else if (type === "history") void this.#answer(frame, this.#messages(room, frame));
        else if (type === "presence") void this.#answer(frame, this.#get(`rooms/${encodeURIComponent(room)}/presence`));
        else if (type === "refresh") this.#refresh(frame);
        else if (type === "ping" && this._clock.now() - this.#heardAt < SILENT_MS) this.#say({ type: "pong", ref });
      }
      #say(frame) {
        if (!this.#ending.signal.aborted) this.onmessage?.({ data: JSON.stringify(frame) });
      }
      #end(code, reason = "") {
        const { onclose } = this;
        if (this.#ending.signal.aborted) return;
        this.close();
        onclose?.({ code, reason });
      }
      // ------------------------------------------------------------------------------------------------- feed
      /** Not at once: rooms that are joined together are read by one feed. */
      #feedSoon() {
        if (this.#isFeedDue) return;
        this.#isFeedDue = true;
        queueMicrotask(() => {
          this.#isFeedDue = false;
          if (!this.#ending.signal.aborted) void this.#openFeed();
        });
      }
      /** Another feed, with all rooms of now. The one before goes on until this one has begun, so that nothing falls between. */
      async #openFeed() {
        const before = this.#feed;
        const feed = new AbortController();
        const rooms = /* @__PURE__ */ new Set([`user:${this.#user}`, ...this.#rooms.keys()]);
        const query = new URLSearchParams([...rooms].map((room) => ["room", room]));
        query.set("client", this._clientId);
        this.#feed = feed;
        this.#ending.signal.addEventListener("abort", () => feed.abort());
        let retry;
        let event = { type: "message", data: "" };
        const isCurrent = () => this.#feed === feed && !feed.signal.aborted;
        try {
          const answer = await this.#fetch(`events?${query}`, { headers: { Accept: "text/event-stream" }, signal: feed.signal });
          if (answer.status === 403) return isCurrent() ? await this.#onForbidden(rooms, before, isCurrent) : void 0;
          if (!answer.ok || !answer.body) return isCurrent() ? this.#onStatus(answer.status) : void 0;
          let hasBegun = false;
          let hasId = false;
          await readFields(answer.body, (name, value) => {
            this.#heardAt = this._clock.now();
            retry = name === "retry" ? value : name === "dispatch" ? retry : void 0;
            if (name === "event") event.type = value;
            else if (name === "data") event.data += value + "\n";
            else if (name === "id") hasId = true;
            else if (name === "dispatch") {
              if (event.data && !this.#ending.signal.aborted) this.#onEvent(event.type, event.data.slice(0, -1));
              else if (hasId && !hasBegun && isCurrent()) {
                hasBegun = true;
                before?.abort();
                this.#onBegun(rooms);
              }
              event = { type: "message", data: "" };
              hasId = false;
            }
          });
        } catch {
        }
        if (!isCurrent()) return;
        if (retry === void 0) this.#end(1006);
        else this.#end(4200, `draining retry_ms=${retry}`);
      }
      #onFed;
      #onBegun(rooms) {
        this.#feedRooms = rooms;
        if (!this.#isConnected) this.#probe(() => this.#connected());
        for (const [room, { begin }] of [...this.#onFed]) {
          if (!rooms.has(room)) continue;
          this.#onFed.delete(room);
          begin();
        }
      }
      #connected() {
        if (this.#isConnected) return;
        this.#isConnected = true;
        this.#probeLater();
        this.#say({ type: "connected", userId: this.#user, clientId: this._clientId, expiresAt: this.#expiresAt, limits: { rooms: ROOMS_MAX } });
      }
      /** Some room may not be joined, or not any more with a newer token. The others must not go without a feed for it. */
      async #onForbidden(rooms, before, isCurrent) {
        let isFound = false;
        for (const room of rooms) {
          const trying = new AbortController();
          const answer = await this.#fetch(`events?${new URLSearchParams({ room })}`, { signal: trying.signal }).catch(() => void 0);
          trying.abort();
          if (!isCurrent()) return;
          if (answer?.status !== 403) continue;
          const joined = this.#rooms.get(room);
          if (!joined) return this.#onStatus(403);
          isFound = true;
          const asked = this.#onFed.get(room);
          this.#forget(joined);
          this.#feedRooms.delete(room);
          if (!asked) this.#say({ type: "left", room });
          this.#say({ type: "error", ref: asked?.ref, room, code: "forbidden", message: "the token does not allow this" });
        }
        if (!isFound) return this.#end(1006);
        this.#feed = before;
        this.#feedSoon();
      }
      #onEvent(type, data) {
        const frame = JSON.parse(data);
        const room = this.#rooms.get(frame.room);
        if (type === "gap") return room && this.#end(1006);
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
      #handOn(room) {
        if (room.isReading) return;
        for (let next; (next = room.held.get(room.offset + 1)) !== void 0; ) {
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
      async #join(frame) {
        const { room: name, ref } = frame;
        if (!this.#rooms.has(name) && this.#rooms.size >= ROOMS_MAX) {
          return this.#say({ type: "error", ref, room: name, code: "too_many_rooms", message: `without WebSocket there are at most ${ROOMS_MAX}` });
        }
        const before = this.#rooms.get(name);
        if (before) this.#forget(before);
        const room = {
          name,
          offset: 0,
          isReading: true,
          held: /* @__PURE__ */ new Map(),
          holeTimer: void 0,
          isWatched: Boolean(frame.presence),
          here: void 0,
          watchTimer: void 0
        };
        this.#rooms.set(name, room);
        const begin = () => void this.#begin(room, frame).catch((error) => this.#onRefused(error, room, frame));
        if (this.#feedRooms.has(name)) return begin();
        this.#onFed.set(name, { begin, ref });
        this.#feedSoon();
      }
      /** It can't be read, and is not kept half joined. By WebSocket it could be read without a grant for its history. */
      #onRefused(error, room, frame) {
        if (this.#rooms.get(room.name) !== room) return;
        if (error instanceof Refused) this.#forget(room);
        if (error instanceof Refused && error.status === 403) {
          Object.assign(error.fields, { code: "unavailable", message: "without WebSocket, this room takes the grant `history`", retryAfterMs: REFUSED_AGAIN_MS });
        }
        this.#onFailed(error, frame);
      }
      /** The feed runs: reads what was missed, and says `joined` as the server would. */
      async #begin(room, { ref, since, epoch, last }) {
        const newest = await this.#messages(room.name, { limit: since === void 0 ? Math.max(1, Math.min(last ?? 0, PAGE)) : 1 });
        if (this.#rooms.get(room.name) !== room) return;
        const head = newest.messages.at(-1)?.offset ?? 0;
        const present = room.isWatched && await this.#watch(room);
        if (this.#rooms.get(room.name) !== room) return;
        const joined = { type: "joined", ref, room: room.name, offset: head, epoch: newest.epoch, recovered: true, ...present };
        const refuse = (reason) => {
          this.#goLive(room, head);
          this.#say({ ...joined, recovered: false, reason });
          this.#handOn(room);
        };
        if (since === void 0) {
          const first = last ? newest.messages[0]?.offset : void 0;
          this.#say(joined);
          if (first !== void 0) for (const message of newest.messages) this.#say({ type: "message", ...message });
          this.#goLive(room, head);
          return this.#handOn(room);
        }
        if (since > head || epoch && since > 0 && epoch !== newest.epoch) return refuse("epoch");
        const page = since < head ? await this.#messages(room.name, { after: since, limit: PAGE }) : { messages: [], more: false };
        if (this.#rooms.get(room.name) !== room) return;
        if (since < head && page.messages[0]?.offset !== since + 1) return refuse("trimmed");
        this.#say(joined);
        room.offset = since;
        this.#take(room, page.messages);
        await this.#read(room, page.more);
      }
      /** Reads the room from where it is to its head. */
      async #read(room, isMore = true) {
        room.isReading = true;
        while (isMore) {
          const { messages, more } = await this.#messages(room.name, { after: room.offset, limit: PAGE });
          if (this.#rooms.get(room.name) !== room) return;
          if (messages.length && messages[0].offset > room.offset + 1) return this.#end(1006);
          this.#take(room, messages);
          isMore = more;
        }
        this.#goLive(room, room.offset);
        this.#handOn(room);
      }
      #take(room, messages) {
        for (const message of messages) {
          if (message.offset <= room.offset) continue;
          room.offset = message.offset;
          this.#say({ type: "message", ...message });
        }
      }
      #goLive(room, offset) {
        room.offset = offset;
        room.isReading = false;
      }
      #leave({ room: name, ref }) {
        const room = this.#rooms.get(name);
        if (!room) return this.#say({ type: "error", ref, room: name, code: "not_joined", message: "" });
        this.#forget(room);
        this.#say({ type: "left", ref, room: name });
      }
      #forget(room) {
        this.#rooms.delete(room.name);
        this.#onFed.delete(room.name);
        this._clock.clearTimeout(room.holeTimer);
        this._clock.clearTimeout(room.watchTimer);
      }
      /** Who is there, and from now on who comes and goes. */
      async #watch(room) {
        const { count, members, truncated } = await this.#get(`rooms/${encodeURIComponent(room.name)}/presence`);
        if (this.#rooms.get(room.name) !== room) return {};
        const here = new Map(members.map((member) => [member.userId, member]));
        const before = room.here;
        room.here = here;
        const tell = (type, { userId: id, info }) => this.#say({ type, room: room.name, user: { id, info }, count });
        if (before) {
          for (const [userId, member] of here) if (!before.has(userId)) tell("userJoined", member);
          for (const [userId, member] of before) if (!here.has(userId)) tell("userLeft", member);
        }
        this.#watchLater(room, PRESENCE_EVERY_MS);
        return { count, members, truncated };
      }
      /** Who may not know any more who is there, or asks too often, goes without for a while: the messages still come. */
      #watchLater(room, ms) {
        const onFailed = (error) => {
          if (!(error instanceof Refused) || error.status === 401) this.#onFailed(error);
          else if (this.#rooms.get(room.name) === room) this.#watchLater(room, error.fields.retryAfterMs ?? REFUSED_AGAIN_MS);
        };
        room.watchTimer = this._clock.setTimeout(() => void this.#watch(room).catch(onFailed), ms);
      }
      // ------------------------------------------------------------------------------------------------- HTTP
      #post(frame) {
        const { room: name, ref, payload, key, ephemeral } = frame;
        const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ payload, key, ephemeral }) };
        const post = () => this.#ask(`rooms/${encodeURIComponent(name)}/messages`, request);
        if (ephemeral) return this.#postEphemeral(name, post);
        const posting = this.#postings.get(name) ?? { last: Promise.resolve(), count: 0 };
        this.#postings.set(name, posting);
        posting.count += 1;
        posting.last = posting.last.then(async () => {
          try {
            const ack = await post();
            this.#say({ type: "ack", ref, ...ack });
            const room2 = this.#rooms.get(name);
            if (room2 && ack.offset > room2.offset) room2.held.set(ack.offset, null);
          } catch (error) {
            this.#onFailed(error, frame);
          }
          if (--posting.count === 0) this.#postings.delete(name);
          const room = this.#rooms.get(name);
          if (room) this.#handOn(room);
        });
      }
      /** What may be lost does not queue up, and nothing that is to be stored waits for it. */
      #postEphemeral(room, post) {
        if (this.#telling.has(room) || this.#postings.has(room)) return;
        this.#telling.add(room);
        void post().catch((error) => this.#onFailed(error, {})).then(() => this.#telling.delete(room));
      }
      #messages(room, { after, before, limit }) {
        const given = Object.entries({ after, before, limit }).filter(([, value]) => value !== void 0);
        return this.#get(`rooms/${encodeURIComponent(room)}/messages?${new URLSearchParams(given)}`);
      }
      #get(path) {
        return this.#ask(path, {});
      }
      async #ask(path, request) {
        const answer = await this.#fetch(path, { ...request, signal: this.#ending.signal });
        this.#heardAt = this._clock.now();
        const body = await answer.json();
        if (answer.ok) return body;
        const retryAfterMs = body.retryAfterMs ?? (Number(answer.headers.get("Retry-After")) * 1e3 || void 0);
        throw new Refused(answer.status, { code: body.code ?? "internal", message: body.detail ?? "", retryAfterMs, outcome: body.outcome });
      }
      #fetch(path, request) {
        return this._fetch(new URL(path, this._url), { ...request, headers: { ...request.headers, Authorization: `Bearer ${this._token}`, "Carillon-Client": this._clientId } });
      }
      async #answer(frame, asked) {
        try {
          this.#say({ type: frame.type, ref: frame.ref, room: frame.room, ...await asked });
        } catch (error) {
          this.#onFailed(error, frame);
        }
      }
      /** What the server refused is an error of the frame that asked; all else is the network's, and ends the socket. */
      #onFailed(error, frame) {
        if (!(error instanceof Refused)) return this.#end(1006);
        if (error.status === 401) return this.#onStatus(401);
        if (frame) this.#say({ type: "error", ref: frame.ref, room: frame.room, ...error.fields });
        else this.#end(1006);
      }
      #onStatus(status) {
        if (status !== 401 && status !== 403) return this.#end(1006);
        const isOver = this.#expiresAt !== void 0 && this.#expiresAt <= this._clock.now();
        this.#end(isOver ? 4004 : 4001, isOver ? "token_expired" : "unauthorized");
      }
      /** A newer token for what is asked from now on, the feed included. */
      #refresh({ token, ref }) {
        const { user, expiresAt } = claimsOf(token);
        if (user !== this.#user) return this.#end(4001, "unauthorized");
        this._token = token;
        this.#expiresAt = expiresAt;
        this.#feedSoon();
        this.#say({ type: "refreshed", ref, expiresAt });
      }
      // ------------------------------------------------------------------------------------------------ probe
      #probeLater() {
        if (!this._probe) return;
        const timer = this._clock.setTimeout(() => this.#probe(() => this.#probeLater()), this.#probeMs);
        this.#probeMs = Math.min(this.#probeMs * 2, PROBE_MAX_MS);
        this.#ending.signal.addEventListener("abort", () => this._clock.clearTimeout(timer));
      }
      /**
       * Is WebSocket possible after all? The first frame tells, or a close that only the server makes; an open socket alone may be a
       * proxy's. Calls `otherwise` if not.
       */
      #probe(otherwise) {
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
        socket.onerror = () => {
        };
        socket.onmessage = works;
        socket.onclose = ({ code }) => code >= 4e3 ? works() : fail();
        this.#ending.signal.addEventListener("abort", stop);
      }
    };
    Refused = class extends Error {
      constructor(status, fields) {
        super(fields.message);
        this.status = status;
        this.fields = fields;
      }
    };
  }
});

// src/look.ts
var look_exports = {};
__export(look_exports, {
  look: () => look
});
async function look(wire, room, { key, inDoubtSince }) {
  let before;
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const { messages, more } = await new Promise((resolve, reject) => wire._ask({ type: "history", room, before, limit: PAGE2 }, {}, resolve, reject));
    const found = messages.find((message) => message.key === key);
    if (found) return { ...found, duplicate: true };
    const [oldest] = messages;
    if (!oldest || oldest.offset === 1 || oldest.ts <= inDoubtSince - SKEW_MS) return void 0;
    if (!more) break;
    before = oldest.offset;
  }
  return null;
}
var SKEW_MS, PAGE2, PAGES_MAX;
var init_look = __esm({
  "src/look.ts"() {
    "use strict";
    SKEW_MS = 10 * 6e4;
    PAGE2 = 1e3;
    PAGES_MAX = 20;
  }
});

// src/clock.ts
var realClock = {
  now: Date.now,
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (timer) => clearTimeout(timer),
  random: Math.random
};
function randomId() {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}

// src/emitter.ts
var Emitter = class {
  #listeners = /* @__PURE__ */ new Map();
  /** Calls `listener` from now on. Returns the function that ends it. The same function is called once, however often it was given. */
  on(kind, listener) {
    const all = this.#listeners.get(kind) ?? /* @__PURE__ */ new Set();
    this.#listeners.set(kind, all.add(listener));
    return () => void all.delete(listener);
  }
  /** @internal Whether somebody listens. */
  _has(kind) {
    return Boolean(this.#listeners.get(kind)?.size);
  }
  /** @internal */
  _emit(kind, told) {
    for (const listener of [...this.#listeners.get(kind) ?? []]) {
      try {
        listener(told);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
};

// src/error.ts
var CarillonError = class extends Error {
  constructor(code, message, more = {}) {
    super(message);
    this.name = "CarillonError";
    this.code = code;
    Object.assign(this, more);
  }
};
function mayRetry(code) {
  return code === "unavailable" || code === "internal" || code === "rate_limited";
}

// src/pace.ts
var BURST_MS = 1e3;
var ABSURD_MS = 1e6;
var Pace = class {
  constructor(_clock, _perSecond, _write) {
    this._clock = _clock;
    this._perSecond = _perSecond;
    this._write = _write;
  }
  #turnAt = 0;
  #isStopped = false;
  /** Writes `text` now or later, in order. `isDroppable` is written now or not at all: false says that it was not. */
  send(text, isDroppable) {
    const now = this._clock.now();
    if (this.#turnAt > now + ABSURD_MS) this.#turnAt = 0;
    const turnAt = Math.max(this.#turnAt, now - BURST_MS) + 1e3 / this._perSecond;
    if (turnAt > now && isDroppable) return false;
    this.#turnAt = turnAt;
    if (turnAt <= now) this._write(text);
    else this._clock.setTimeout(() => this.#isStopped || this._write(text), turnAt - now);
    return true;
  }
  onGone() {
    this.#isStopped = true;
  }
};

// src/retry.ts
var BACKOFF_FIRST_MS = 1e3;
var BACKOFF_MAX_MS = 3e4;
function backoffMs(attempt, random) {
  return random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** attempt);
}
function afterClose(closeCode, reason, toldMs, random) {
  if (closeCode === 1009 || closeCode >= 4e3 && closeCode < 4100) {
    const code = closeCode === 1009 ? "payload_too_large" : reason || "stopped";
    return new CarillonError(code, `the connection ended: ${closeCode} ${reason}`, { closeCode });
  }
  if (closeCode >= 4200 && closeCode < 4300) {
    const told = /retry_ms=(\d+)/.exec(reason)?.[1];
    return told ? +told : toldMs ?? random() * BACKOFF_FIRST_MS;
  }
  return void 0;
}

// src/token.ts
var SPARE_MS = 5e3;
var RENEW_BEFORE_MS = 6e4;
var WRONG_CLOCK_MS = 3e4;
var TIMER_MAX_MS = 2 ** 31 - 1;
var Token = class {
  constructor(source, clock) {
    this.source = source;
    this.clock = clock;
  }
  #current = null;
  #endsAt = 0;
  /** Counts what was dropped: an answer to a question from before is not taken. */
  #turn = 0;
  /** Whether there is a way to another one. */
  get renewable() {
    return typeof this.source === "function";
  }
  /** The current token, or another one where that is over. */
  async take() {
    if (typeof this.source !== "function") return this.source;
    if (!this.#current || this.#endsAt - SPARE_MS <= this.clock.now()) {
      const turn = this.#turn;
      const token = await this.source();
      if (turn !== this.#turn) return this.take();
      this.#current = token;
      this.#endsAt = endsAt(token, this.clock.now());
    }
    return this.#current;
  }
  /** It is not to be used again. */
  drop() {
    this.#current = null;
    this.#turn += 1;
  }
  /** How long to wait before it is renewed, for a token that the server says ends at `expiresAt`. */
  renewInMs(expiresAt) {
    const leftMs = Math.min(expiresAt, this.#endsAt || Infinity) - this.clock.now();
    return leftMs > 0 ? Math.min(Math.max(leftMs - RENEW_BEFORE_MS, leftMs * 0.8), TIMER_MAX_MS) : WRONG_CLOCK_MS;
  }
};
function endsAt(token, now) {
  try {
    const claims = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    const { exp, iat } = JSON.parse(atob(claims));
    return Math.min(exp * 1e3, iat === void 0 ? Infinity : now + (exp - iat) * 1e3);
  } catch {
    return Infinity;
  }
}

// src/connection.ts
var CONNECT_WITHIN_MS = 1e4;
var STABLE_MS = 1e4;
var PING_EVERY_MS = 25e3;
var PONG_WITHIN_MS = 1e4;
var PONG_WITHIN_WAKING_MS = 4e3;
var RENEW_AGAIN_MS = 5e3;
var BLOCKED_AFTER = 2;
var WEBSOCKET_WORKS2 = 4299;
var RENEWAL = 0;
var DEFAULT_LIMITS = { frameBytes: 65536, rooms: 256, framesPerSecond: 50 };
var Connection = class extends Emitter {
  /** @internal */
  constructor(options, clock) {
    super();
    /** What it is doing. */
    this.state = "idle";
    /** While `waiting`: when the next attempt is due, Unix milliseconds. */
    this.retryAt = 0;
    /** The way in that is used. */
    this.transport = "websocket";
    this.limits = DEFAULT_LIMITS;
    /** @internal */
    this._onFrame = () => {
    };
    /** @internal Frames can be sent now. */
    this._onConnected = () => {
    };
    /** @internal The socket is gone; `error` if the connection will not come back by itself. */
    this._onGone = () => {
    };
    /** Counts attempts; what belongs to an earlier one is not heard any more. */
    this.#turn = 0;
    this.#retries = 0;
    this.#connectedAt = 0;
    this.#isTold = false;
    this.#blocked = 0;
    this.#blockedAfter = BLOCKED_AFTER;
    this.#timers = {};
    this.#options = options;
    this.#clock = clock;
    this.#url = baseOf(options.url);
    this.clientId = options.clientId ?? randomId();
    this._token = new Token(options.token, clock);
  }
  #options;
  #clock;
  #url;
  #socket;
  #pace;
  #turn;
  #retries;
  #connectedAt;
  #isTold;
  #drainMs;
  #blocked;
  #blockedAfter;
  #timers;
  /** There while it is not idle, stopped or closed. */
  #listening;
  /** @internal */
  _start() {
    if (this.state === "idle") this._open();
  }
  /** @internal Opens now, whatever it was waiting for; `isAnew`: also in the place of an attempt that is under way. */
  _open(isAnew) {
    if (this.state === "connected" || this.state === "connecting" && !isAnew) return;
    this.#abandon();
    this.#listening ??= listenToSurroundings(() => this.#wake());
    this.error = void 0;
    void this.#attempt();
  }
  /** @internal Ends for good. */
  _close() {
    this.#end("closed", new CarillonError("closed", "closed"));
  }
  /**
   * Drops the socket as if the network had gone, and comes back after `awayMs`. For tests and demonstrations: nothing
   * is lost by it.
   */
  drop(awayMs = 0) {
    if (!this.#listening) return;
    this.#abandon();
    this.#wait(awayMs, true);
  }
  /**
   * @internal False: it was not sent. `isDroppable`: now or not at all. `isAtOnce`: joins and leaves have an allowance of
   * their own, as large as the number of rooms.
   */
  _send(text, isDroppable, isAtOnce) {
    if (this.state !== "connected") return false;
    return isAtOnce ? (this.#socket.send(text), true) : this.#pace.send(text, isDroppable);
  }
  /** @internal Brings a newer token while everything goes on, or connects with it. */
  async _renew() {
    const token = this._token;
    token.drop();
    const turn = this.#turn;
    try {
      const next = await token.take();
      if (turn !== this.#turn || this.state !== "connected") return;
      if (next === null) return this.#end("stopped", signedOut());
      this._send(JSON.stringify({ type: "refresh", ref: RENEWAL, token: next }));
    } catch {
      if (turn === this.#turn) this.#after("renew", RENEW_AGAIN_MS, () => void this._renew());
    }
  }
  async #attempt() {
    const turn = ++this.#turn;
    this.#clear();
    this.#drainMs = void 0;
    this.#after("connect", CONNECT_WITHIN_MS, () => this.#onClose(1006, ""));
    this.#enter("connecting");
    try {
      const token = await this._token.take();
      if (turn !== this.#turn) return;
      if (!token) return this.#end("stopped", signedOut());
      const socket2 = await this.#makeSocket(token);
      if (turn !== this.#turn) return socket2.close();
      this.#socket = socket2;
    } catch (error) {
      if (turn !== this.#turn) return;
      if (error instanceof CarillonError) return this.#end("stopped", error);
      this.error = new CarillonError("unavailable", String(error));
      if (this.transport === "sse") this.#blocked += 1;
      return this.#retry();
    }
    const socket = this.#socket;
    socket.onmessage = ({ data }) => this.#onFrame(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#onClose(code, reason);
    socket.onerror = () => {
    };
  }
  /** Attempts that WebSocket failed, one over the fallback, and so on, until one of them works. */
  async #makeSocket(token) {
    const { WebSocket = globalThis.WebSocket, fallback } = this.#options;
    const isBlocked = fallback !== false && (!WebSocket || this.#blocked % (this.#blockedAfter + 1) === this.#blockedAfter);
    this.transport = isBlocked ? "sse" : "websocket";
    const make = () => {
      const url = new URL("ws", this.#url);
      url.protocol = url.protocol.replace("http", "ws");
      url.searchParams.set("client", this.clientId);
      return new WebSocket(url.href, ["carillon.v1", "carillon.token." + token]);
    };
    if (isBlocked) return (await Promise.resolve().then(() => (init_fallback(), fallback_exports))).open(this.#url, token, this.#options, this.#clock, this.clientId, WebSocket && make);
    try {
      return make();
    } catch (error) {
      throw new CarillonError(WebSocket ? "unauthorized" : "unsupported", String(error));
    }
  }
  #onFrame(frame) {
    this.#clock.clearTimeout(this.#timers.pong);
    this.#timers.pong = void 0;
    if (frame.type === "connected") this.#onConnected(frame);
    else if (frame.type === "draining") this.#drainMs = frame.retryAfterMs;
    else if (frame.ref === RENEWAL) this.#onRenewed(frame);
    else this._onFrame(frame);
  }
  #onConnected(frame) {
    this.#clock.clearTimeout(this.#timers.connect);
    this.userId = frame.userId;
    this.limits = { ...DEFAULT_LIMITS, ...frame.limits };
    this.#connectedAt = this.#clock.now();
    const socket = this.#socket;
    this.#pace = new Pace(this.#clock, this.limits.framesPerSecond, (text) => socket.send(text));
    const isWebSocket = this.transport === "websocket";
    this.#blocked = isWebSocket ? 0 : 1;
    this.#blockedAfter = isWebSocket ? BLOCKED_AFTER : 1;
    this.#expires(frame.expiresAt);
    this.#after("ping", PING_EVERY_MS, () => this.#ping(PONG_WITHIN_MS));
    this.error = void 0;
    this.#enter("connected");
    this._onConnected();
  }
  /** The answer to `refresh`. */
  #onRenewed(frame) {
    if (frame.type === "refreshed") this.#expires(frame.expiresAt);
    else this.#after("renew", frame.retryAfterMs ?? RENEW_AGAIN_MS, () => void this._renew());
  }
  #expires(expiresAt) {
    this.expiresAt = expiresAt;
    if (expiresAt === void 0 || !this._token.renewable) return;
    this.#after("renew", this._token.renewInMs(expiresAt), () => void this._renew());
  }
  #ping(pongWithinMs) {
    this.#after("ping", PING_EVERY_MS, () => this.#ping(PONG_WITHIN_MS));
    if (this.#timers.pong === void 0) this.#after("pong", pongWithinMs, () => this.#onClose(1006, ""));
    this._send('{"type":"ping"}');
  }
  /** The page is looked at again, or the network came back: no time to wait, and the socket may be a dead one. */
  #wake() {
    if (this.state === "waiting") {
      if (!this.#isTold && globalThis.navigator?.onLine !== false) void this.#attempt();
    } else if (this.state === "connected") {
      this.#ping(PONG_WITHIN_WAKING_MS);
    }
  }
  #onClose(code, reason) {
    const wasConnected = this.state === "connected";
    if (wasConnected && this.#clock.now() - this.#connectedAt >= STABLE_MS) this.#retries = 0;
    const isBlocked = !wasConnected && code < 4e3 && this.#socket;
    if (isBlocked) this.#blocked += 1;
    if (code === WEBSOCKET_WORKS2) {
      this.#blocked = 0;
      this.#blockedAfter = BLOCKED_AFTER;
    }
    this.#abandon();
    const next = afterClose(code, reason, this.#drainMs, this.#clock.random);
    this.error = next instanceof CarillonError ? next : new CarillonError("unavailable", `the connection ended: ${code} ${reason}`, { closeCode: code });
    if (code === 4004 && this._token.renewable) {
      this._token.drop();
      this.#retry(this.#retries ? void 0 : 0);
    } else if (next === this.error) this.#end("stopped", next);
    else if (next === void 0 && isBlocked && this.#blockedAfter === 1 && this.transport === "websocket") this.#wait(0);
    else if (next === void 0) this.#retry();
    else this.#wait(next, true);
  }
  #retry(delayMs = backoffMs(this.#retries, this.#clock.random)) {
    if (this.#retries++ < (this.#options.maxRetries ?? Infinity)) this.#wait(delayMs);
    else this.#end("stopped", new CarillonError("gave_up", "every attempt failed"));
  }
  #wait(delayMs, isTold = false) {
    this.#turn += 1;
    this.#isTold = isTold;
    this.retryAt = this.#clock.now() + delayMs;
    this.#after("retry", delayMs, () => void this.#attempt());
    this.#enter("waiting");
  }
  #end(state, error) {
    this.#turn += 1;
    this.#retries = 0;
    this.#abandon(error);
    this.#listening?.abort();
    this.#listening = void 0;
    this.error = error;
    this.#enter(state);
  }
  /** Lets go of the socket: nothing that it still says is heard. */
  #abandon(error) {
    const socket = this.#socket;
    this.#socket = void 0;
    this.#clear();
    this.#pace?.onGone();
    if (socket) {
      socket.onmessage = socket.onclose = socket.onopen = null;
      socket.close();
    }
    if (this.state === "connected") this.state = "waiting";
    this._onGone(error);
  }
  #after(name, ms, run) {
    this.#clock.clearTimeout(this.#timers[name]);
    this.#timers[name] = this.#clock.setTimeout(() => {
      this.#timers[name] = void 0;
      run();
    }, ms);
  }
  #clear() {
    for (const timer of Object.values(this.#timers)) this.#clock.clearTimeout(timer);
    this.#timers = {};
  }
  #enter(state) {
    this.state = state;
    this._emit("change", state);
  }
};
function baseOf(url = globalThis.location?.origin) {
  return new URL(String(url).replace(/^ws/, "http").replace(/\/(ws)?$/, "") + "/");
}
function signedOut() {
  return new CarillonError("unauthorized", "no token");
}
function listenToSurroundings(wake) {
  const ending = new AbortController();
  const { signal } = ending;
  const page = globalThis.document;
  page?.addEventListener("visibilitychange", () => page.visibilityState === "visible" && wake(), { signal });
  if (globalThis.addEventListener) for (const what of ["online", "offline"]) addEventListener(what, wake, { signal });
  return ending;
}

// src/publishing.ts
var KEY_KNOWN_MS = 1e5;
var LOAD_AGAIN_MS = 5e3;
var Publishing = class {
  constructor(_room) {
    this._room = _room;
    this.list = [];
    this.#isHeld = false;
    /** Counts connections; what was held belongs to one. */
    this.#turn = 0;
    this.#attempt = 0;
  }
  #isHeld;
  #turn;
  #attempt;
  add(publish) {
    this.list.push(publish);
    this._room._wire._queued += 1;
    this.pump();
  }
  /** Sends what waits, in order; nothing overtakes one that is held. */
  pump() {
    for (const publish of [...this.list]) {
      if (this.#isHeld || this._room._wire.connection.state !== "connected" || !this._room._isOpen()) return;
      if (!publish.isSent) this.#next(publish);
    }
  }
  onDisconnected() {
    for (const publish of this.list) publish.isSent = false;
    this.#isHeld = false;
    this.#turn += 1;
  }
  /** The message of a key is stored. */
  settleKey(key, frame) {
    const publish = this.list.find((publish2) => publish2.key === key);
    if (publish) this.#settle(publish, frame);
    return publish;
  }
  /** Messages are gone for good, and those in doubt may have been among them. */
  onGap() {
    for (const publish of this.list) if (publish.inDoubtSince && !publish.isSent) publish.isHidden = true;
  }
  fail(error) {
    for (const publish of [...this.list]) this.#fail(publish, error);
  }
  #next(publish) {
    const { inDoubtSince, isHidden } = publish;
    const age = this._room._clock.now() - (inDoubtSince ?? 0);
    if (!inDoubtSince || age >= 0 && age < KEY_KNOWN_MS) this.#send(publish);
    else if (!isHidden && this._room._isReadSince(inDoubtSince)) this.#send(publish, true);
    else this.#look(publish);
  }
  #send(publish, isNew = false) {
    publish.isSent = true;
    if (isNew || !publish.inDoubtSince) publish.inDoubtSince = this._room._clock.now();
    const frame = { type: "broadcast", room: this._room.name, key: publish.key };
    this._room._wire._ask(frame, { payload: publish.text }, (ack) => this.#onAck(publish, ack), (error, answer) => this.#onError(publish, error, answer));
  }
  #onAck(publish, ack) {
    this.#attempt = 0;
    if (!this.#settle(publish, ack)) return;
    this._room._onStored(publish, ack);
  }
  #onError(publish, error, { retryAfterMs }) {
    if (!mayRetry(error.code)) return this.#fail(publish, error, true);
    publish.isSent = false;
    if (!error.outcome) delete publish.inDoubtSince;
    this.#hold(retryAfterMs ?? backoffMs(this.#attempt++, this._room._clock.random));
  }
  #hold(ms) {
    this.#isHeld = true;
    const turn = this.#turn;
    this._room._clock.setTimeout(() => {
      if (turn !== this.#turn) return;
      this.#isHeld = false;
      this.pump();
    }, ms);
  }
  /** False: it was settled before. */
  #settle(publish, { offset, id, ts, duplicate }) {
    const isFirst = this.#remove(publish);
    publish.resolve({ offset, id, ts, ...duplicate && { duplicate } });
    return isFirst;
  }
  #fail(publish, { code, message, closeCode }, isRefused) {
    const outcome = publish.inDoubtSince && !isRefused ? "unknown" : void 0;
    if (this.#remove(publish)) publish.reject({ code, message, closeCode, outcome });
  }
  #remove(publish) {
    const index = this.list.indexOf(publish);
    if (index < 0) return false;
    this.list.splice(index, 1);
    this._room._wire._queued -= 1;
    return true;
  }
  /** Looks for it in the room's history. Hardly ever needed, and so not part of what every page loads. */
  #look(publish) {
    this.#isHeld = true;
    const turn = this.#turn;
    const settle = (found, error) => {
      if (turn !== this.#turn) return;
      this.#isHeld = false;
      if (found) this.#settle(publish, found);
      else if (error || found === null || publish.isHidden) this.#fail(publish, error ?? new CarillonError("unavailable", "the room was trimmed"));
      else this.#send(publish, true);
      this.pump();
    };
    Promise.resolve().then(() => (init_look(), look_exports)).then(({ look: look2 }) => look2(this._room._wire, this._room.name, publish)).then(settle, (error) => error instanceof CarillonError ? settle(void 0, error) : this.#hold(LOAD_AGAIN_MS));
  }
};

// src/room.ts
var ITERATOR_BUFFER_MAX = 1e4;
var GAPS_MAX = 3;
var FRAME_AROUND_BYTES = 256;
var HISTORY_LIMIT_MAX = 1e3;
var ignore = () => {
};
var WATCHED = ["presence", "userJoined", "userLeft"];
var Room = class extends Emitter {
  /** @internal */
  constructor(name, options, wire, clock) {
    super();
    this.state = "idle";
    /** The newest offset that is known of. */
    this.head = 0;
    this.#publishing = new Publishing(this);
    /** The last offset that was counted; null until the room was joined for the first time. */
    this.#offset = null;
    this.#epoch = "";
    /** Since when nothing is missed, Unix milliseconds. */
    this.#readSince = 0;
    /** What comes is counted. It is not while a join is on its way that covers it. */
    this.#isCounting = false;
    this.#joinTurn = 0;
    this.#isJoinDue = false;
    this.#joinAttempt = 0;
    this.#gaps = 0;
    this.#isReloading = false;
    /** One's own messages are asked for as such, since they can't be fetched. */
    this.#echo = false;
    /** Acknowledged before their place was reached. */
    this.#early = /* @__PURE__ */ new Map();
    this.name = name;
    this.#options = options;
    this._wire = wire;
    this._clock = clock;
    if (options.since) ({ offset: this.#offset, epoch: this.#epoch } = options.since);
  }
  #options;
  #publishing;
  #offset;
  #epoch;
  #readSince;
  #isCounting;
  #joinTurn;
  #isJoinDue;
  #joinAttempt;
  #joinTimer;
  #gaps;
  #isReloading;
  #echo;
  #early;
  /** Everything up to here was told. Keep it to go on from here in another life of the app (option `since`). */
  get position() {
    return this.#offset === null ? void 0 : { offset: this.#offset, epoch: this.#epoch };
  }
  /**
   * Calls `listener` from now on, and joins the room unless `kind` is `change`, `end` or `rejected`. Returns the function that ends the
   * listening; the room stays joined until `leave()`.
   */
  on(kind, listener) {
    const wasWatched = this.#isWatched();
    const end = super.on(kind, listener);
    if (this.state !== "idle" && this.#isWatched() && !wasWatched) this.#joinSoon();
    if (!/^(change|end|rejected)$/.test(kind)) this.join();
    return end;
  }
  #isWatched() {
    return WATCHED.some((kind) => this._has(kind));
  }
  /** Messages from now on, for as long as the loop runs: `for await (const message of room)`. */
  async *[Symbol.asyncIterator]() {
    if (this._wire.connection.state === "closed") return;
    this._wire._need();
    if (this.state === "refused") throw this.error;
    const buffer = [];
    let ended;
    let wake = () => {
    };
    const end = (error) => {
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
      for (; ; ) {
        if (buffer.length) yield buffer.shift();
        else if (ended?.error) throw ended.error;
        else if (ended) return;
        else await new Promise((resolve) => wake = resolve);
      }
    } finally {
      end();
    }
  }
  /** Becomes a member, as the first listener does. */
  join() {
    if (this.state !== "idle") return;
    this.#enter("joining");
    this.#joinSoon();
  }
  /** Is no member any more, and forgets where it was. What waits to be published still is. */
  leave() {
    if (this.state === "idle") return;
    this.#isReloading = false;
    this.#offset = null;
    this.#epoch = "";
    this.#early.clear();
    this.present = void 0;
    if (this._wire.connection.state === "connected") this.#ask("leave", { atOnce: true }, ignore, ignore);
    this.#onNoMember();
    this.#enter("idle");
    this._emit("end", void 0);
    this.#publishing.pump();
  }
  /**
   * Stores a message. Resolves once it is durable, with its place in the room; waits while there is no connection, and
   * is stored once, however often that breaks. Rejects with a `CarillonError` that has it as `publish`. Whoever does not look at
   * the promise can listen to `rejected`.
   */
  publish(payload, { key = randomId() } = {}) {
    const published = new Promise((resolve, reject) => {
      this._wire._need();
      if (this._wire._queued >= this._wire._queueLimit) throw new CarillonError("queue_full", "too many publishes wait");
      const text = JSON.stringify(payload);
      if (text === void 0) throw new CarillonError("bad_request", "not JSON");
      const { frameBytes } = this._wire.connection.limits;
      if (new TextEncoder().encode(this.name + key + text).length > frameBytes - FRAME_AROUND_BYTES) {
        throw new CarillonError("payload_too_large", `more than ${frameBytes} bytes`);
      }
      this.#publishing.add({ key, text, resolve, reject });
    }).catch(({ code = "bad_request", message, closeCode, outcome }) => {
      const error = new CarillonError(code, message, { closeCode, outcome, publish: { room: this.name, key, payload } });
      this._emit("rejected", error);
      throw error;
    });
    published.catch(ignore);
    return published;
  }
  /**
   * Tells those who are there now; nothing is stored. Returns false if it was dropped: without a connection, or above
   * the rate that the server allows.
   */
  ephemeral(payload) {
    this._wire.connection._start();
    return this._wire.connection._send(JSON.stringify({ type: "broadcast", room: this.name, ephemeral: true, payload }), true);
  }
  /** A part of the room, oldest first: the newest messages, those below `before`, or those above `after`. */
  async history(options) {
    const { messages, more, epoch } = await this.#read("history", options);
    return { messages: messages.map((message) => this.#toMessage(message)), more, epoch };
  }
  /** Who is there now. For who comes and goes, listen to `presence`. */
  async presence() {
    return presenceOf(await this.#read("presence"));
  }
  #read(type, options) {
    return new Promise((resolve, reject) => {
      this._wire._need();
      this.#ask(type, { again: true }, resolve, reject, options);
    });
  }
  #ask(type, options, done, failed, more) {
    this._wire._ask({ type, room: this.name, ...more }, options, done, failed);
  }
  // ------------------------------------------------------------------------------------------- connection
  /** @internal */
  _onConnected() {
    if (this.state !== "idle") this.#join();
    this.#publishing.pump();
  }
  /** @internal */
  _onGone(error) {
    this.#onNoMember();
    this.#publishing.onDisconnected();
    if (this.state !== "idle") this.#enter("joining");
    if (!error) return;
    this.#publishing.fail(error);
    this._emit("end", error.code === "closed" ? void 0 : error);
  }
  /** @internal A frame that answers nothing. */
  _onFrame(frame) {
    const { type } = frame;
    if (frame.ephemeral) this.#onEphemeral(frame);
    else if (type === "message" || type === "own") this.#onStored(frame);
    else if (type === "joined") this.#onJoined(frame);
    else if (type === "userJoined" || type === "userLeft") this.#onPresence(frame);
    else if (type === "left") this.#onLeft();
    this.#settle();
  }
  // ------------------------------------------------------------------------------------------- membership
  /** Not at once: listeners that are set together ask together. */
  #joinSoon() {
    if (this.#isJoinDue) return;
    this.#isJoinDue = true;
    queueMicrotask(() => {
      this.#isJoinDue = false;
      if (this.state === "idle") return;
      this._wire.connection._start();
      this.#join();
    });
  }
  #join() {
    if (this._wire.connection.state !== "connected" || this.#isReloading) return;
    const turn = ++this.#joinTurn;
    this._clock.clearTimeout(this.#joinTimer);
    this.#isCounting = false;
    const since = this.#offset;
    const place = since === null ? { last: this.#options.last } : { since, epoch: this.#epoch };
    this.#ask("join", { atOnce: true }, (joined) => {
      if (turn !== this.#joinTurn) return;
      this.#joinAttempt = 0;
      this.#onJoined(joined);
      this.#settle();
    }, (error, { retryAfterMs }) => {
      if (turn !== this.#joinTurn) return;
      this.#onNoMember();
      this.error = error;
      if (!mayRetry(error.code)) return this.#onRefused(error);
      this.#enter("joining");
      this.#publishing.pump();
      this.#joinTimer = this._clock.setTimeout(() => this.#join(), retryAfterMs ?? backoffMs(this.#joinAttempt++, this._clock.random));
    }, { ...place, presence: this.#isWatched(), echo: this.#echo });
  }
  #onJoined(frame) {
    const { offset: head, epoch, recovered, reason, members, truncated, count } = frame;
    this.#isCounting = true;
    this.error = void 0;
    if (members) this.#show(presenceOf(frame));
    if (truncated && !count) this.presence().then((present) => this.#show(present), ignore);
    if (!recovered && this.#offset !== null) return this.#onGap(reason ?? "epoch", head, epoch);
    this.#gaps = 0;
    this.head = head;
    this.#epoch = epoch;
    if (this.#offset !== null) return;
    this.#readSince = this._clock.now();
    if (!(this.#options.last && head)) this.#offset = head;
  }
  #onRefused(error) {
    this.#enter("refused");
    this._emit("end", error);
    this.#publishing.pump();
  }
  /** Unasked: a newer token does not open this room any more, or the server gave up. Asking again tells which. */
  #onLeft() {
    if (!this.#isCounting) return;
    this.#onNoMember();
    this.#enter("joining");
    this.#joinSoon();
  }
  #onNoMember() {
    this.#joinTurn += 1;
    this.#isCounting = false;
    this._clock.clearTimeout(this.#joinTimer);
  }
  /** Messages are gone. Finds out which, tells, and goes on with what is left. */
  #onGap(reason, head, epoch) {
    const after = this.#offset;
    this.#isCounting = false;
    const isLast = ++this.#gaps > GAPS_MAX;
    const turn = this.#joinTurn;
    const goOn = (before = head + 1) => turn === this.#joinTurn && this.#goOn({ room: this.name, reason, after, before, epoch }, isLast);
    if (isLast) goOn();
    else if (reason === "epoch") goOn(1);
    else this.#ask("history", {}, ({ messages }) => goOn(messages[0]?.offset), () => goOn(), { after, limit: 1 });
  }
  #goOn(gap, isLast) {
    this.#publishing.onGap();
    if (gap.reason === "epoch") this.#early.clear();
    this.#offset = gap.before - 1;
    this.#epoch = gap.epoch;
    this._emit("gap", gap);
    this.#isCounting = isLast;
    if (isLast) this.head = this.#offset;
    else if (this.#options.reload) this.#reload(gap, this.#options.reload);
    else this.#join();
  }
  #reload(gap, reload) {
    this.#isReloading = true;
    const goOn = (position) => {
      if (!this.#isReloading) return;
      this.#isReloading = false;
      if (position) ({ offset: this.#offset, epoch: this.#epoch } = position);
      this.#join();
    };
    void (async () => reload(gap))().then(goOn, () => goOn());
  }
  // --------------------------------------------------------------------------------------------- counting
  #onStored(frame) {
    const publish = this.#publishing.settleKey(frame.key, frame);
    if (!this.#isCounting) return;
    const { offset, epoch } = frame;
    if (offset === 1 && epoch && epoch !== this.#epoch) {
      if (this.#offset) return this.#onGap("epoch", 1, epoch);
      this.#epoch = epoch;
    }
    this.#offset ??= offset - 1;
    if (offset <= this.#offset) return;
    if (offset > this.#offset + 1) return this.#join();
    if (publish) this.#early.set(offset, this.#toOwn(publish, frame));
    else if (frame.type === "own" && !this.#early.has(offset)) return this.#fetch();
    else if (frame.type !== "own") this.#early.set(offset, this.#toMessage(frame));
    this.#countEarly();
  }
  /** @internal */
  _isOpen() {
    return this.state !== "joining" || Boolean(this.error);
  }
  /** @internal */
  _isReadSince(time) {
    return this.state === "live" && !this.#echo && this.#readSince <= time;
  }
  /** @internal */
  _onStored(publish, ack) {
    const { offset, duplicate } = ack;
    if (this.#offset === null) return;
    if (offset > this.#offset) {
      this.#early.set(offset, this.#toOwn(publish, ack));
      this.#countEarly();
      if (offset === 1 && !this.#epoch) this.#learnEpoch();
    } else if (!duplicate && this.#isCounting) {
      this.#join();
    }
    this.#settle();
  }
  #countEarly() {
    for (let next; this.#isCounting && (next = this.#early.get(this.#offset + 1)); ) this.#count(next);
  }
  #count(message) {
    this.#offset = message.offset;
    this.head = Math.max(this.head, message.offset);
    this.#early.delete(message.offset);
    this._emit("message", message);
  }
  /** One's own messages of an earlier life of this app come without payload: this part is read from the history. */
  #fetch() {
    this.#isCounting = false;
    const turn = ++this.#joinTurn;
    const goOn = (messages) => {
      if (turn !== this.#joinTurn) return;
      for (const message of messages) if (message.offset > this.#offset) this.#count(this.#toMessage(message));
      this.#join();
    };
    this.#ask("history", {}, ({ messages }) => goOn(messages), () => {
      this.#echo = true;
      goOn([]);
    }, { after: this.#offset, limit: HISTORY_LIMIT_MAX });
  }
  /** Who writes a room's first message is not sent it, and so learns the name of its life by asking. */
  #learnEpoch() {
    const learn = ({ epoch }) => void (this.#epoch ||= epoch);
    this.#ask("history", {}, learn, ignore, { limit: 1 });
  }
  /** Up to date: what waits to be published may go. */
  #settle() {
    if (this.state !== "joining" || !this.#isCounting || this.#offset === null || this.#offset < this.head) return;
    this.#enter("live");
    this.#publishing.pump();
  }
  #toOwn({ key, text }, frame) {
    return this.#toMessage({ ...frame, payload: JSON.parse(text), sender: this._wire.connection.userId, key });
  }
  #toMessage({ offset, payload, sender, id, ts, key }) {
    return { room: this.name, offset, payload, sender, id, ts, own: sender === this._wire.connection.userId, ...key && { key } };
  }
  // --------------------------------------------------------------------------------------------- presence
  #onEphemeral({ payload, sender, ts }) {
    this._emit("ephemeral", { room: this.name, payload, sender, ts });
  }
  #onPresence({ type, user, count }) {
    const member = { userId: user.id, ...user.info && { info: user.info } };
    const others = (this.present?.members ?? []).filter(({ userId }) => userId !== user.id);
    const members = type === "userJoined" ? [...others, member] : others;
    this._emit(type, member);
    this.#show({ count, members, truncated: count > members.length });
  }
  #show(present) {
    this.present = present;
    this._emit("presence", present);
  }
  #enter(state) {
    if (this.state === state) return;
    this.state = state;
    this._emit("change", state);
  }
};
function presenceOf({ members, count = members.length, truncated }) {
  return { count, members, truncated: Boolean(truncated) };
}

// src/carillon.ts
var QUEUE_LIMIT = 1e3;
var Carillon = class {
  constructor(options) {
    /** @internal */
    this._queued = 0;
    this.#rooms = /* @__PURE__ */ new Map();
    this.#asks = /* @__PURE__ */ new Map();
    this.#ref = 0;
    this.#clock = options.clock ?? realClock;
    this._queueLimit = options.queueLimit ?? QUEUE_LIMIT;
    this.connection = new Connection(options, this.#clock);
    this.connection._onConnected = () => this.#onConnected();
    this.connection._onGone = (error) => this.#onGone(error);
    this.connection._onFrame = (frame) => this.#onFrame(frame);
  }
  #clock;
  #rooms;
  #asks;
  #ref;
  /** The room of that name, the same one for the same name. It is joined when somebody listens. */
  room(name, options = {}) {
    let room = this.#rooms.get(name);
    if (!room) this.#rooms.set(name, room = new Room(name, options, this, this.#clock));
    return room;
  }
  /** Connects now: for the first time, instead of waiting for the next attempt, or after it stopped. */
  connect() {
    if (this.connection.state !== "closed") this.connection._open();
  }
  /**
   * Takes another token, or asks `token` for one: a live connection goes on with it; one that has stopped is opened again.
   */
  refresh(token) {
    const { connection } = this;
    if (token !== void 0) connection._token.source = token;
    connection._token.drop();
    if (connection.state === "connected") void connection._renew();
    else if (connection.state !== "closed") connection._open(true);
  }
  /** Ends for good. What waits to be published is rejected with `closed`. */
  close() {
    this.connection._close();
  }
  /** @internal */
  _need() {
    const { state, error } = this.connection;
    if (state === "stopped" || state === "closed") throw error;
    this.connection._start();
  }
  /** @internal */
  _ask(frame, options, onAnswer, onError) {
    const ref = ++this.#ref;
    let text = JSON.stringify({ ...frame, ref });
    if (options.payload !== void 0) text = `${text.slice(0, -1)},"payload":${options.payload}}`;
    const ask = { ...options, text, attempt: 0, onAnswer, onError };
    this.#asks.set(ref, ask);
    this.#send(ask);
  }
  #send({ text, atOnce }) {
    this.connection._send(text, false, atOnce);
  }
  #onConnected() {
    for (const ask of this.#asks.values()) this.#send(ask);
    for (const room of this.#rooms.values()) room._onConnected();
  }
  #onGone(error) {
    for (const [ref, ask] of [...this.#asks]) {
      if (ask.again && !error) continue;
      this.#asks.delete(ref);
      if (ask.again && error) ask.onError(error, {});
    }
    for (const room of this.#rooms.values()) room._onGone(error);
  }
  #onFrame(frame) {
    const ask = this.#asks.get(frame.ref);
    if (!ask) return this.#rooms.get(frame.room)?._onFrame(frame);
    if (frame.type !== "error") {
      this.#asks.delete(frame.ref);
      ask.onAnswer(frame);
    } else if (ask.again && mayRetry(frame.code)) {
      const delayMs = frame.retryAfterMs ?? backoffMs(ask.attempt++, this.#clock.random);
      this.#clock.setTimeout(() => this.#asks.has(frame.ref) && this.#send(ask), delayMs);
    } else {
      this.#asks.delete(frame.ref);
      ask.onError(new CarillonError(frame.code, frame.message, { outcome: frame.outcome }), frame);
    }
  }
};
export {
  Carillon,
  CarillonError,
  Emitter
};
