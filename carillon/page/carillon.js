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

// src/limits.ts
var CONNECT_WITHIN_MS, SPEAK_WITHIN_MS, SWALLOWED_MS, STABLE_MS, PING_EVERY_MS, PONG_WITHIN_MS, PONG_WITHIN_WAKING_MS, BLOCKED_AFTER, WEBSOCKET_WORKS, RENEWAL, BACKOFF_FIRST_MS, BACKOFF_MAX_MS, KEY_KNOWN_MS, LOAD_AGAIN_MS, ITERATOR_BUFFER_MAX, GAPS_MAX, HISTORY_LIMIT_MAX, QUEUE_LIMIT;
var init_limits = __esm({
  "src/limits.ts"() {
    "use strict";
    CONNECT_WITHIN_MS = 1e4;
    SPEAK_WITHIN_MS = 6e3;
    SWALLOWED_MS = 3e3;
    STABLE_MS = 1e4;
    PING_EVERY_MS = 25e3;
    PONG_WITHIN_MS = 1e4;
    PONG_WITHIN_WAKING_MS = 4e3;
    BLOCKED_AFTER = 2;
    WEBSOCKET_WORKS = 4299;
    RENEWAL = 0;
    BACKOFF_FIRST_MS = 1e3;
    BACKOFF_MAX_MS = 3e4;
    KEY_KNOWN_MS = 1e5;
    LOAD_AGAIN_MS = 5e3;
    ITERATOR_BUFFER_MAX = 1e4;
    GAPS_MAX = 3;
    HISTORY_LIMIT_MAX = 1e3;
    QUEUE_LIMIT = 1e3;
  }
});

// src/places.ts
async function takePlace(host) {
  const locks = globalThis.navigator?.locks;
  const isBrowser = globalThis.document ?? "WorkerGlobalScope" in globalThis;
  if (!locks || !isBrowser || isShared(host)) return () => {
  };
  for (let n = 1; n <= FEEDS_MAX; n += 1) {
    const place = await new Promise((resolve) => {
      const hold = (lock) => lock ? new Promise((done) => resolve(done)) : resolve(void 0);
      locks.request(`carillon feed ${n} ${host}`, { ifAvailable: true }, hold).catch(() => resolve(() => {
      }));
    });
    if (place) return place;
  }
  return void 0;
}
function isShared(host) {
  const entries = ["navigation", "resource"].flatMap((type) => globalThis.performance.getEntriesByType(type));
  return entries.some(({ name, nextHopProtocol }) => /^h[23]/.test(nextHopProtocol) && new URL(name).host === host);
}
var FEEDS_MAX;
var init_places = __esm({
  "src/places.ts"() {
    "use strict";
    FEEDS_MAX = 4;
  }
});

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
var ROOMS_MAX, PAGE, HELD_MAX, HOLE_MS, SILENT_MS, PRESENCE_EVERY_MS, REFUSED_AGAIN_MS, REQUEST_WITHIN_MS, POLL_EVERY_MS, POLL_ROOM_MS, PROBE_WITHIN_MS, PROBE_FIRST_MS, PROBE_MAX_MS, MAY_RETRY, UNANSWERED, FallbackSocket, Refused;
var init_fallback = __esm({
  "src/fallback.ts"() {
    "use strict";
    init_limits();
    init_places();
    init_sse();
    ROOMS_MAX = 63;
    PAGE = 1e3;
    HELD_MAX = 1e4;
    HOLE_MS = 300;
    SILENT_MS = 75e3;
    PRESENCE_EVERY_MS = 1e4;
    REFUSED_AGAIN_MS = 3e4;
    REQUEST_WITHIN_MS = 9e3;
    POLL_EVERY_MS = 2e3;
    POLL_ROOM_MS = 200;
    PROBE_WITHIN_MS = 4e3;
    PROBE_FIRST_MS = 3e4;
    PROBE_MAX_MS = 6e5;
    MAY_RETRY = /^(unavailable|internal|rate_limited)$/;
    UNANSWERED = `no answer within ${REQUEST_WITHIN_MS / 1e3} s (over HTTP/1.1, all tabs of a browser share six connections to a host)`;
    FallbackSocket = class {
      constructor(_url, _token, _fetch, _clock, _clientId, _probe) {
        this._url = _url;
        this._token = _token;
        this._fetch = _fetch;
        this._clock = _clock;
        this._clientId = _clientId;
        this._probe = _probe;
        this.#heardAt = _clock.now();
        ({ user: this.#user, expiresAt: this.#expiresAt } = claimsOf(_token));
        _clock.setTimeout(() => void this.#takePlace().then(() => this.#feedSoon()), 0);
      }
      _url;
      _token;
      _fetch;
      _clock;
      _clientId;
      _probe;
      onopen = null;
      onerror = null;
      onmessage = null;
      onclose = null;
      #user;
      #expiresAt;
      #rooms = /* @__PURE__ */ new Map();
      #ending = new AbortController();
      #postings = /* @__PURE__ */ new Map();
      /** Rooms that are being told something ephemeral. */
      #telling = /* @__PURE__ */ new Set();
      #feed;
      /** Gives back what this tab has of the browser's feeds; without one, it asks now and then. */
      #place;
      #pollTimer;
      #feedRooms = /* @__PURE__ */ new Set();
      #isFeedDue = false;
      #isConnected = false;
      #isProbing = false;
      #heardAt;
      #probeMs = PROBE_FIRST_MS;
      close() {
        this.#ending.abort();
        this.#place?.();
        this._clock.clearTimeout(this.#pollTimer);
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
      async #takePlace() {
        this.#place = await takePlace(this._url.host);
        if (this.#ending.signal.aborted) this.#place?.();
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
          const answer = await this.#within(this.#fetch(`events?${query}`, { headers: { Accept: "text/event-stream" }, signal: feed.signal }));
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
      /** Rooms to be fed → what to do when they are, and what asked for it. */
      #onFed = /* @__PURE__ */ new Map();
      #onBegun(rooms) {
        this.#feedRooms = rooms;
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
      #pollLater(ms = Math.max(POLL_EVERY_MS, this.#rooms.size * POLL_ROOM_MS)) {
        const onFailed = (error) => {
          if (error instanceof Refused && MAY_RETRY.test(error.fields.code)) this.#pollLater(error.fields.retryAfterMs);
          else this.#onFailed(error);
        };
        this._clock.clearTimeout(this.#pollTimer);
        this.#pollTimer = this._clock.setTimeout(() => void this.#poll().catch(onFailed), ms);
      }
      /** Reads what is new, one room after the other, unless there is a place for a feed by now. */
      async #poll() {
        await this.#takePlace();
        if (this.#place) return this.#feedSoon();
        for (const room of [...this.#rooms.values()]) {
          if (!room.isReading) await this.#read(room).finally(() => room.isReading = false);
        }
        if (!this.#ending.signal.aborted) this.#pollLater();
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
          const answer = await this.#within(this.#fetch(`events?${new URLSearchParams({ room })}`, { signal: trying.signal })).catch(() => void 0);
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
          epoch: "",
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
        room.epoch = newest.epoch;
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
          const { messages, more, epoch } = await this.#messages(room.name, { after: room.offset, limit: PAGE });
          if (this.#rooms.get(room.name) !== room) return;
          if (epoch && room.epoch && epoch !== room.epoch) return this.#end(1006);
          room.epoch ||= epoch;
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
          this.#say({ type: "message", ...message, ...message.offset === 1 && { epoch: room.epoch } });
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
            if (posting.refused) throw new Refused(503, posting.refused);
            const ack = await post();
            this.#say({ type: "ack", ref, ...ack });
            const room2 = this.#rooms.get(name);
            if (room2 && ack.offset > room2.offset) room2.held.set(ack.offset, null);
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
        const [answer, body] = await this.#within(this.#fetch(path, { ...request, signal: this.#ending.signal }).then(async (answer2) => {
          this.#heardAt = this._clock.now();
          return [answer2, await answer2.json()];
        }));
        if (answer.ok) return body;
        const retryAfterMs = body.retryAfterMs ?? (Number(answer.headers.get("Retry-After")) * 1e3 || void 0);
        throw new Refused(answer.status, { code: body.code ?? "internal", message: body.detail ?? "", retryAfterMs, outcome: body.outcome });
      }
      /** What takes too long ends this socket, and so itself. */
      async #within(asked) {
        const timer = this._clock.setTimeout(() => this.#end(1006, UNANSWERED), REQUEST_WITHIN_MS);
        try {
          return await asked;
        } finally {
          this._clock.clearTimeout(timer);
        }
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
        if (!(error instanceof Refused)) return this.#end(1006, error instanceof Error ? error.message : "");
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
      status;
      fields;
    };
  }
});

// src/look.ts
var look_exports = {};
__export(look_exports, {
  look: () => look
});
async function look(wire, room, { key, inDoubtSince, isHidden }) {
  let before;
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const { messages, more } = await new Promise((resolve, reject) => wire._ask({ type: "history", room, before, limit: PAGE2 }, {}, resolve, reject));
    const found = messages.find((message) => message.key === key);
    if (found) return { ...found, duplicate: true };
    const [oldest] = messages;
    if (!isHidden && (!oldest || oldest.offset === 1 || oldest.ts <= inDoubtSince - SKEW_MS)) return void 0;
    if (!more || !oldest) break;
    before = oldest.offset;
  }
  throw { code: "unavailable", message: "the room was trimmed" };
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

// src/gap.ts
var gap_exports = {};
__export(gap_exports, {
  report: () => report
});
function report(room, reason, head, epoch) {
  const after = room._offset;
  const isLast = ++room._gaps > GAPS_MAX;
  const turn = room._joinTurn;
  const next = (before = head + 1) => turn === room._joinTurn && goOn(room, { room: room.name, reason, after, before, epoch }, isLast);
  if (isLast) next();
  else if (reason === "epoch") next(1);
  else room._ask("history", {}, ({ messages }) => next(messages[0]?.offset), () => next(), { after, limit: 1 });
}
function goOn(room, gap, isLast) {
  const { reload } = room._options;
  room._publishing.onGap();
  if (gap.reason === "epoch") room._early.clear();
  room._offset = gap.before - 1;
  room._epoch = gap.epoch;
  room._emit("gap", gap);
  room._isCounting = isLast;
  if (isLast) {
    room.head = room._offset;
    room._settle();
  } else if (reload) load(room, gap, reload, 0);
  else room._join();
}
function load(room, gap, reload, attempt) {
  const mine = room._reloading = {};
  const isMine = () => room._reloading === mine;
  const onLoaded = (position) => {
    if (!isMine()) return;
    room._reloading = void 0;
    if (position) ({ offset: room._offset, epoch: room._epoch } = position);
    room._join();
  };
  const onFailed = (error) => {
    if (!isMine()) return;
    room._failed(String(error));
    const ms = room._clock.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** attempt);
    room._clock.setTimeout(() => isMine() && load(room, gap, reload, attempt + 1), ms);
  };
  void (async () => reload(gap))().then(onLoaded, onFailed);
}
var init_gap = __esm({
  "src/gap.ts"() {
    "use strict";
    init_limits();
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
  name = "CarillonError";
  constructor(code, message, more = {}) {
    super(message);
    this.code = code;
    Object.assign(this, more);
  }
};
function mayRetry(code) {
  return /^(unavailable|internal|rate_limited)$/.test(code);
}

// src/pace.ts
var ABSURD_MS = 1e6;
var Pace = class {
  #turnAt = 0;
  #isStopped = false;
  #clock;
  #frameMs;
  #burstMs;
  constructor(clock, { framesPerSecond, framesBurst = 2 * framesPerSecond }) {
    this.#clock = clock;
    this.#frameMs = 1e3 / framesPerSecond;
    this.#burstMs = this.#frameMs * Math.max(1, framesBurst / 2);
  }
  /** Calls `write`, which writes one frame, now or later, in order. `isDroppable`: now or not at all; false says that it was not. */
  take(write, isDroppable) {
    const now = this.#clock.now();
    if (this.#turnAt > now + ABSURD_MS) this.#turnAt = 0;
    const turnAt = Math.max(this.#turnAt, now - this.#burstMs) + this.#frameMs;
    if (turnAt > now && isDroppable) return false;
    this.#turnAt = turnAt;
    if (turnAt <= now) write();
    else this.#clock.setTimeout(() => this.#isStopped || write(), turnAt - now);
    return true;
  }
  onGone() {
    this.#isStopped = true;
  }
};

// src/retry.ts
init_limits();
function backoffMs(attempt, random) {
  return random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** attempt);
}
function afterClose(closeCode, reason, toldMs, random) {
  if (closeCode === 1009) return "payload_too_large";
  if (closeCode >= 4e3 && closeCode < 4100) return reason || "stopped";
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
var JWT = /^[\w-]+\.[\w-]+\.[\w-]+$/;
var TIMER_MAX_MS = 2 ** 31 - 1;
var Token = class {
  #current = null;
  #endsAt = 0;
  /** Counts what was dropped: an answer to a question from before is not taken. */
  #turn = 0;
  #clock;
  constructor(source, clock) {
    this.source = source;
    this.#clock = clock;
  }
  /** Whether there is a way to another one. */
  get renewable() {
    return typeof this.source === "function";
  }
  /** The current token, or another one where that is over, or `isAnew` is wished. The current one stays until the next is there. */
  async take(isAnew) {
    if (typeof this.source !== "function") return this.source;
    if (isAnew || !this.#current || this.#endsAt - SPARE_MS <= this.#clock.now()) {
      const turn = this.#turn;
      const token = await this.source();
      if (turn !== this.#turn) return this.take();
      if (token !== null && !JWT.test(token)) throw "this is no token";
      this.#current = token;
      this.#endsAt = endsAt(token, this.#clock.now());
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
    const leftMs = Math.min(expiresAt, this.#endsAt || Infinity) - this.#clock.now();
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
init_limits();
var DEFAULT_LIMITS = { frameBytes: 65536, rooms: 256, framesPerSecond: 50 };
var Connection = class extends Emitter {
  /** What it is doing. */
  state = "idle";
  /** While `waiting`: when the next attempt is due, Unix milliseconds. */
  retryAt = 0;
  /** The way in that is used. */
  transport = "websocket";
  limits = DEFAULT_LIMITS;
  #options;
  #clock;
  #owner;
  #url;
  #socket;
  #pace;
  /** Counts attempts; what belongs to an earlier one is not heard any more. */
  #turn = 0;
  #retries = 0;
  /** When the socket was made, or connected. */
  #since = 0;
  #isTold = false;
  #drainMs;
  #blocked = 0;
  #blockedAfter = BLOCKED_AFTER;
  #timers = {};
  /** There while it is not idle, stopped or closed. */
  #listening;
  /** @internal */
  constructor(options, clock, owner) {
    super();
    this.#owner = owner;
    this.#options = options;
    this.#clock = clock;
    this.#url = baseOf(options.url);
    this.clientId = options.clientId ?? randomId();
    this._token = new Token(options.token, clock);
  }
  /** @internal */
  _start() {
    if (this.state === "idle") this._open();
  }
  /** @internal Opens now, whatever it was waiting for; `isAnew`: also in the place of an attempt that is under way. */
  _open(isAnew) {
    if (this.state === "closed" || this.state === "connected" || this.state === "connecting" && !isAnew) return;
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
    const write = () => this.#socket.send(text);
    return isAtOnce ? (write(), true) : this.#pace.take(write, isDroppable);
  }
  /** @internal Calls `run` when a frame may be sent `isAtOnce`: now, later, or never if the connection ends before. */
  _turn(run) {
    this.#pace.take(run);
  }
  /** @internal A larger frame would end the connection. */
  _fits(text) {
    return new TextEncoder().encode(text).length <= this.limits.frameBytes;
  }
  /** @internal Brings a newer token while everything goes on, or connects with it. */
  async _renew() {
    const turn = this.#turn;
    try {
      const next = await this._token.take(true);
      if (turn !== this.#turn || this.state !== "connected") return;
      if (next === null) return this.#end("stopped", signedOut());
      this._send(JSON.stringify({ type: "refresh", ref: RENEWAL, token: next }));
    } catch {
      if (turn === this.#turn) this.#renewIn();
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
      this.#since = this.#clock.now();
      if (this.#isPlain()) this.#after("connect", SPEAK_WITHIN_MS, () => this.#onClose(1006, ""));
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
    const make = () => new WebSocket(`${this.#url.href.replace("http", "ws")}ws?client=${this.clientId}`, ["carillon.v1", "carillon.token." + token]);
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
    else this.#owner._onFrame(frame);
  }
  #onConnected(frame) {
    this.#clock.clearTimeout(this.#timers.connect);
    this.userId = frame.userId;
    this.limits = { ...DEFAULT_LIMITS, ...frame.limits };
    this.#since = this.#clock.now();
    this.#pace = new Pace(this.#clock, this.limits);
    const isWebSocket = this.transport === "websocket";
    this.#blocked = isWebSocket ? 0 : 1;
    this.#blockedAfter = isWebSocket ? BLOCKED_AFTER : 1;
    this.#expires(frame.expiresAt);
    this.#after("ping", PING_EVERY_MS, () => this.#ping(PONG_WITHIN_MS));
    this.error = void 0;
    this.#enter("connected");
    this.#owner._onConnected();
  }
  /** The answer to `refresh`. */
  #onRenewed(frame) {
    if (frame.type !== "refreshed") return this.#renewIn(frame.retryAfterMs);
    this.#retries = 0;
    this.#expires(frame.expiresAt);
    this.#owner._onRefreshed();
  }
  #renewIn(ms = this.#backoffMs()) {
    this.#after("renew", ms, () => void this._renew());
  }
  #backoffMs() {
    return backoffMs(this.#retries++, this.#clock.random);
  }
  /** Over WebSocket, and there is another way. */
  #isPlain() {
    return this.transport === "websocket" && this.#options.fallback !== false;
  }
  #expires(expiresAt) {
    this.expiresAt = expiresAt;
    if (expiresAt && this._token.renewable) this.#renewIn(this._token.renewInMs(expiresAt));
  }
  #ping(pongWithinMs) {
    this.#after("ping", PING_EVERY_MS, () => this.#ping(PONG_WITHIN_MS));
    if (!this.#timers.pong) this.#after("pong", pongWithinMs, () => this.#onClose(1006, ""));
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
    const livedMs = this.#clock.now() - this.#since;
    if (wasConnected && livedMs >= STABLE_MS) this.#retries = 0;
    const isBlocked = !wasConnected && code < 4e3 && this.#socket;
    const isSwallowed = isBlocked && this.#isPlain() && livedMs >= SWALLOWED_MS;
    if (isSwallowed) this.#blocked = this.#blockedAfter;
    else if (isBlocked) this.#blocked += 1;
    if (code === WEBSOCKET_WORKS) this.#blocked = 0;
    this.#abandon();
    const next = afterClose(code, reason, this.#drainMs, this.#clock.random);
    const stop = typeof next === "string" && next;
    const error = this.error = new CarillonError(stop || "unavailable", `closed: ${code} ${reason}`, { closeCode: code });
    if (code === 4004 && this._token.renewable) {
      this._token.drop();
      this.#retry(this.#retries ? void 0 : 0);
    } else if (stop) this.#end("stopped", error);
    else if (next === void 0 && (isSwallowed || isBlocked && this.#blockedAfter === 1 && this.transport === "websocket")) this.#wait(0);
    else if (next === void 0) this.#retry();
    else this.#wait(next, true);
  }
  #retry(delayMs) {
    const ms = this.#backoffMs();
    if (this.#retries <= (this.#options.maxRetries ?? Infinity)) this.#wait(delayMs ?? ms);
    else this.#end("stopped", new CarillonError("gave_up", "too many attempts"));
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
    this.#owner._onGone(error);
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
init_limits();
var Publishing = class {
  list = [];
  #isHeld = false;
  /** Counts connections, and what holds up: what was held belongs to one. */
  #turn = 0;
  #attempt = 0;
  /** A turn to send was asked for, and has not come. */
  #isAsked = false;
  /** Something was refused for now: one at a time until nothing waits, so that nothing is stored before what was said before it. */
  #isCareful = false;
  #room;
  constructor(room) {
    this.#room = room;
  }
  add(publish) {
    this.list.push(publish);
    this.#room._wire._queued += 1;
    this.pump();
  }
  /** Sends what waits, in order; nothing overtakes one that is held. Which one goes is decided when its turn has come. */
  pump() {
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
  #first() {
    const { list } = this;
    if (this.#isHeld || this.#isCareful && list[0]?.isSent || !this.#room._isOpen()) return;
    return list.find(({ isSent }) => !isSent);
  }
  onDisconnected() {
    this.#unsent(0);
    this.#isHeld = this.#isAsked = false;
    this.#turn += 1;
  }
  #unsent(from) {
    for (const publish of this.list.slice(from)) publish.isSent = void 0;
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
    const age = this.#room._clock.now() - (inDoubtSince ?? 0);
    if (!inDoubtSince || age >= 0 && age < KEY_KNOWN_MS) this.#send(publish);
    else if (!isHidden && this.#room._isReadSince(inDoubtSince)) this.#send(publish, true);
    else this.#look(publish);
  }
  #send(publish, isNew = false) {
    const sent = publish.isSent = {};
    if (isNew || !publish.inDoubtSince) publish.inDoubtSince = this.#room._clock.now();
    const frame = { type: "broadcast", room: this.#room.name, key: publish.key };
    this.#room._wire._ask(frame, { payload: publish.text, atOnce: true }, (ack) => this.#onAck(publish, ack), (error, answer) => this.#onError(publish, sent, error, answer));
  }
  #onAck(publish, ack) {
    this.#attempt = 0;
    if (!this.#settle(publish, ack)) return;
    this.#room._onStored(publish, ack);
  }
  #onError(publish, sent, error, { retryAfterMs }) {
    if (!mayRetry(error.code)) return this.#fail(publish, error, true);
    if (publish.isSent !== sent) return;
    this.#unsent(this.list.indexOf(publish));
    if (!error.outcome) delete publish.inDoubtSince;
    this.#isCareful = true;
    this.#hold(retryAfterMs ?? backoffMs(this.#attempt++, this.#room._clock.random));
  }
  #hold(ms) {
    this.#isHeld = true;
    const turn = ++this.#turn;
    this.#room._clock.setTimeout(() => {
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
    this.#room._wire._queued -= 1;
    this.#isCareful &&= this.list.length > 0;
    this.pump();
    return true;
  }
  /** Looks for it in the room's history. Hardly ever needed, and so not part of what every page loads. */
  #look(publish) {
    this.#isHeld = true;
    const turn = this.#turn;
    const go = (act) => {
      if (turn !== this.#turn) return;
      this.#isHeld = false;
      act();
      this.pump();
    };
    Promise.resolve().then(() => (init_look(), look_exports)).then(({ look: look2 }) => look2(this.#room._wire, this.#room.name, publish)).then((found) => go(() => found ? this.#settle(publish, found) : this.#send(publish, true)), (error) => error.code ? go(() => this.#fail(publish, error)) : this.#hold(LOAD_AGAIN_MS));
  }
};

// src/room.ts
init_limits();
var ignore = () => {
};
var WATCHED = ["presence", "userJoined", "userLeft"];
var Room = class extends Emitter {
  state = "idle";
  /** The newest offset that is known of. */
  head = 0;
  /** @internal */
  _options = {};
  /** @internal */
  _publishing = new Publishing(this);
  /** The last offset that was counted; null until the room was joined for the first time. */
  /** @internal */
  _offset = null;
  /** @internal */
  _epoch = "";
  /** Since when nothing is missed, Unix milliseconds. */
  #readSince = 0;
  /** What comes is counted. It is not while a join is on its way that covers it. */
  /** @internal */
  _isCounting = false;
  /** @internal */
  _joinTurn = 0;
  #isJoinDue = false;
  #joinAttempt = 0;
  #joinTimer;
  /** @internal */
  _gaps = 0;
  /** The reload that is under way. */
  /** @internal */
  _reloading;
  /** Somebody was told a message. */
  #isHeard = false;
  /** One's own messages are asked for as such, since they can't be fetched. */
  #echo = false;
  /** Acknowledged before their place was reached. */
  /** @internal */
  _early = /* @__PURE__ */ new Map();
  /** @internal */
  constructor(name, wire, clock) {
    super();
    this.name = name;
    this._wire = wire;
    this._clock = clock;
  }
  /** @internal Somebody comes, perhaps not as the first or for the first time, and wishes this. */
  _want(options) {
    const { last = 0, since } = options;
    const before = this._options;
    this._options = { ...before, ...options };
    if (this.#isHeard || (since ? since.offset === before.since?.offset : last <= (before.last ?? 0))) return;
    if (since) ({ offset: this._offset, epoch: this._epoch } = since);
    else this._offset = null;
    if (this.state !== "idle") this.#joinSoon();
  }
  /** Everything up to here was told. Keep it to go on from here in another life of the app (option `since`). */
  get position() {
    return this._offset === null ? void 0 : { offset: this._offset, epoch: this._epoch };
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
    this._reloading = void 0;
    this.#isHeard = false;
    this._offset = null;
    this._epoch = "";
    this._early.clear();
    this.present = void 0;
    if (this._wire.connection.state === "connected") this._ask("leave", { atOnce: true }, ignore, ignore);
    this.#onNoMember();
    this.#enter("idle");
    this._emit("end", void 0);
    this._publishing.pump();
  }
  /**
   * Stores a message. Resolves once it is durable, with its place in the room; waits while there is no connection, and
   * is stored once, however often that breaks. Rejects with a `CarillonError` that has it as `publish`. Whoever does not look at
   * the promise can listen to `rejected`.
   */
  publish(payload, { key = randomId() } = {}) {
    const published = new Promise((resolve, reject) => {
      this._wire._need();
      if (this._wire._queued >= this._wire._queueLimit) throw { code: "queue_full", message: "too many wait" };
      const text = JSON.stringify(payload);
      if (text === void 0) throw { message: "not JSON" };
      this._publishing.add({ key, text, resolve, reject });
    }).catch(({ code = "bad_request", message, ...more }) => {
      const error = new CarillonError(code, message, { ...more, publish: { room: this.name, key, payload } });
      this._emit("rejected", error);
      throw error;
    });
    published.catch(ignore);
    return published;
  }
  /**
   * Tells those who are there now; nothing is stored. Returns false if it was dropped: without a connection, or above
   * the rate or the size that the server allows.
   */
  ephemeral(payload) {
    const { connection } = this._wire;
    const text = JSON.stringify({ type: "broadcast", room: this.name, ephemeral: true, payload });
    connection._start();
    return connection._fits(text) && connection._send(text, true);
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
      this._ask(type, { again: true }, resolve, reject, options);
    });
  }
  /** @internal */
  _ask(type, options, done, failed, more) {
    this._wire._ask({ type, room: this.name, ...more }, options, done, failed);
  }
  // ------------------------------------------------------------------------------------------- connection
  /** @internal */
  _onConnected() {
    if (this.state !== "idle") this._join();
    this._publishing.pump();
  }
  /** @internal */
  _onGone(error) {
    this.#onNoMember();
    this._publishing.onDisconnected();
    if (this.state !== "idle") this.#enter("joining");
    if (!error) return;
    this._publishing.fail(error);
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
    this._settle();
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
      this._join();
    });
  }
  /** @internal */
  _join() {
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
  #joinLater(ms = backoffMs(this.#joinAttempt++, this._clock.random)) {
    this.#joinTimer = this._clock.setTimeout(() => this._join(), ms);
  }
  #onJoined(frame) {
    const { offset: head, epoch, recovered, reason, members, truncated, count } = frame;
    this._isCounting = true;
    this.error = void 0;
    if (members) this.#show(presenceOf(frame));
    if (truncated && !count) this.presence().then((present) => this.#show(present), ignore);
    if (!recovered && this._offset !== null) return this.#onGap(reason ?? "epoch", head, epoch);
    this._gaps = 0;
    this.head = head;
    this._epoch = epoch;
    if (this._offset !== null) return;
    this.#readSince = this._clock.now();
    if (!(this._options.last && head)) this._offset = head;
  }
  #onRefused(error) {
    if (this.state === "refused") return;
    this.#enter("refused");
    this._emit("end", error);
    this._publishing.pump();
  }
  /** Unasked: a newer token does not open this room any more, or the server gave up. Asking again tells which. */
  #onLeft() {
    if (!this._isCounting) return;
    this.#onNoMember();
    this.#enter("joining");
    this.#joinSoon();
  }
  #onNoMember() {
    this._joinTurn += 1;
    this._isCounting = false;
    this._clock.clearTimeout(this.#joinTimer);
  }
  /** Messages are gone. What comes now comes again. */
  #onGap(reason, head, epoch) {
    const turn = this._joinTurn;
    this._isCounting = false;
    Promise.resolve().then(() => (init_gap(), gap_exports)).then(({ report: report2 }) => turn === this._joinTurn && report2(this, reason, head, epoch), () => this.#joinLater());
  }
  /** @internal */
  _failed(message) {
    this.error = new CarillonError("reload_failed", message);
  }
  // --------------------------------------------------------------------------------------------- counting
  #onStored(frame) {
    const publish = this._publishing.settleKey(frame.key, frame);
    if (!this._isCounting) return;
    const { offset, epoch } = frame;
    if (offset === 1 && epoch && epoch !== this._epoch) {
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
  _isOpen() {
    return this._wire.connection.state === "connected" && (this.state !== "joining" || Boolean(this.error));
  }
  /** @internal */
  _isReadSince(time) {
    return this.state === "live" && !this.#echo && this.#readSince <= time;
  }
  /** @internal */
  _onStored(publish, ack) {
    const { offset, duplicate } = ack;
    if (this._offset === null) return;
    if (offset > this._offset) {
      this._early.set(offset, this.#toOwn(publish, ack));
      this.#countEarly();
      if (offset === 1 && !this._epoch) this.#learnEpoch();
    } else if (!duplicate && this._isCounting) {
      this._join();
    }
    this._settle();
  }
  #countEarly() {
    for (let next; this._isCounting && (next = this._early.get(this._offset + 1)); ) this.#count(next);
  }
  #count(message) {
    this._offset = message.offset;
    this.head = Math.max(this.head, message.offset);
    this._early.delete(message.offset);
    this.#isHeard ||= this._has("message");
    this._emit("message", message);
  }
  /** One's own messages of an earlier life of this app come without payload: this part is read from the history. */
  #fetch() {
    this._isCounting = false;
    const turn = ++this._joinTurn;
    const goOn2 = (messages) => {
      if (turn !== this._joinTurn) return;
      for (const message of messages) if (message.offset > this._offset) this.#count(this.#toMessage(message));
      this._join();
    };
    this._ask("history", {}, ({ messages }) => goOn2(messages), () => {
      this.#echo = true;
      goOn2([]);
    }, { after: this._offset, limit: HISTORY_LIMIT_MAX });
  }
  /** Who writes a room's first message is not sent it, and so learns the name of its life by asking. */
  #learnEpoch() {
    const learn = ({ epoch }) => void (this._epoch ||= epoch);
    this._ask("history", {}, learn, ignore, { limit: 1 });
  }
  /** @internal Up to date: what waits to be published may go. */
  _settle() {
    if (this.state !== "joining" || !this._isCounting || this._offset === null || this._offset < this.head) return;
    this.#enter("live");
    this._publishing.pump();
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
init_limits();
var Carillon = class {
  /** @internal */
  _queued = 0;
  #clock;
  #rooms = /* @__PURE__ */ new Map();
  #asks = /* @__PURE__ */ new Map();
  #ref = 0;
  constructor(options) {
    this.#clock = options.clock ?? realClock;
    this._queueLimit = options.queueLimit ?? QUEUE_LIMIT;
    this.connection = new Connection(options, this.#clock, this);
  }
  /**
   * The room of that name, the same one for the same name. It is joined when somebody listens. Options that are given later hold
   * from then on; `last` and `since` do so as long as no message was told.
   */
  room(name, options = {}) {
    let room = this.#rooms.get(name);
    if (!room) this.#rooms.set(name, room = new Room(name, this, this.#clock));
    room._want(options);
    return room;
  }
  /** Connects now: for the first time, instead of waiting for the next attempt, or after it stopped. */
  connect() {
    this.connection._open();
  }
  /**
   * Takes another token, or asks `token` for one: a live connection goes on with it; one that has stopped is opened again.
   */
  refresh(token) {
    const { connection } = this;
    if (token !== void 0) connection._token.source = token;
    connection._token.drop();
    if (connection.state === "connected") void connection._renew();
    else connection._open(true);
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
    if (options.payload) text = `${text.slice(0, -1)},"payload":${options.payload}}`;
    if (!this.connection._fits(text)) return onError(new CarillonError("payload_too_large", "too large"), {});
    const ask = { ...options, text, attempt: 0, onAnswer, onError };
    this.#asks.set(ref, ask);
    this.#send(ask);
  }
  #send({ text, atOnce }) {
    this.connection._send(text, false, atOnce);
  }
  /** @internal */
  _onConnected() {
    for (const ask of this.#asks.values()) this.#send(ask);
    for (const room of this.#rooms.values()) room._onConnected();
  }
  /** @internal What was refused may be open by now. */
  _onRefreshed() {
    for (const room of this.#rooms.values()) if (room.state === "refused") room._onConnected();
  }
  /** @internal */
  _onGone(error) {
    for (const [ref, ask] of [...this.#asks]) {
      if (ask.again && !error) continue;
      this.#asks.delete(ref);
      if (ask.again && error) ask.onError(error, {});
    }
    for (const room of this.#rooms.values()) room._onGone(error);
  }
  /** @internal */
  _onFrame(frame) {
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
