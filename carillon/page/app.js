// A small chat over the native WebSocket. It shows what a page gets from the protocol: every room is a log with
// offsets 1, 2, 3, …, so the page can prove by counting that it missed nothing, and can come back to where it was.
//
// From top to bottom: the connection (when to come back), a room (what was seen, what is still unacknowledged),
// the chat that joins the two, and the view. Only the view touches the document, only the connection the socket.

/** Messages asked for when a room is entered for the first time. */
const BACKLOG = 50;
/** Messages kept per room; older ones can be fetched again. */
const KEPT_MESSAGES = 1_000;
/** Reconnects wait a random time up to 1, 2, 4, … seconds, so that many clients don't come back in step. */
const BACKOFF_FIRST_MS = 1_000;
const BACKOFF_MAX_MS = 30_000;
/** A connection that lived this long starts the backoff anew when it ends. */
const STABLE_MS = 10_000;
/** How long "Drop connection" stays away: long enough to miss something. */
const DROPPED_MS = 5_000;
/** A page can't see the server's pings, so it asks now and then whether the other end is still there. */
const PING_EVERY_MS = 25_000;
const PONG_WITHIN_MS = 10_000;
/** A log whose messages were all dropped by retention replays nothing; after this time the page takes it as read. */
const SILENT_REPLAY_MS = 2_000;
const TYPING_EVERY_MS = 2_000;
const TYPING_SHOWN_MS = 5_000;
/** Messages of one sender within this time stand together under one name. */
const GROUP_MS = 5 * 60_000;
const FIRST_ROOMS = ["lobby", "design", "support"];

// ---------------------------------------------------------------------------------------------- connection

const STOPPED = {
  1009: "A message was larger than this server allows.",
  4001: "This token isn’t valid, or was revoked.",
  4002: "The server didn’t understand this page.",
  4003: "An admin closed this connection.",
  4004: "This token has expired.",
};

/** What a close code asks of a client: `{stop}` with the reason, or `{delayMs}` after which to come back. */
function afterClose(code, reason, attempt, toldMs) {
  if (code === 1009 || (code >= 4000 && code <= 4099)) {
    return { stop: STOPPED[code] ?? "The server closed this connection for good." };
  }
  if (code >= 4200 && code <= 4299) {
    const told = /retry_ms=(\d+)/.exec(reason);
    return { delayMs: told ? Number(told[1]) : (toldMs ?? Math.random() * BACKOFF_FIRST_MS) };
  }
  return { delayMs: Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** attempt) };
}

/** One socket at a time, opened again for as long as the close codes allow. */
class Connection {
  state = { name: "connecting" };
  #socket = null;
  #attempt = 0;
  #liveSince = 0;
  #toldMs = null;
  #retryTimer = 0;
  #pingTimer = 0;
  #pongTimer = 0;

  constructor(token, clientId, onFrame, onState) {
    Object.assign(this, { token, clientId, onFrame, onState });
  }

  open() {
    clearTimeout(this.#retryTimer);
    this.#abandon();
    this.#toldMs = null;
    this.#enter({ name: "connecting", again: this.#attempt > 0 });
    const url = new URL(`/ws?client=${this.clientId}`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    let socket;
    try {
      // A subprotocol is the one header that a page can set, and no proxy writes it to a log.
      socket = new WebSocket(url, ["carillon.v1", `carillon.token.${this.token}`]);
    } catch {
      return this.#enter({ name: "stopped", code: 4001, why: "This doesn’t look like a token." });
    }
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#socket = socket;
  }

  get live() {
    return this.state.name === "live";
  }

  send(frame) {
    if (this.live) this.#socket.send(JSON.stringify(frame));
    return this.live;
  }

  /** Closes the socket as if the network had gone, and stays away for `awayMs`. */
  drop(awayMs) {
    this.#abandon();
    this.#wait(awayMs);
  }

  close() {
    clearTimeout(this.#retryTimer);
    this.#abandon();
  }

  #receive(frame) {
    clearTimeout(this.#pongTimer);
    this.#pongTimer = 0;
    if (frame.type === "connected") {
      this.#liveSince = performance.now();
      this.#pingTimer = setInterval(() => this.#ping(), PING_EVERY_MS);
      this.#enter({ name: "live", ...frame });
    } else if (frame.type === "draining") {
      this.#toldMs = frame.retryAfterMs;
    } else if (frame.type !== "pong") {
      this.onFrame(frame);
    }
  }

  #ping() {
    this.send({ type: "ping" });
    this.#pongTimer ||= setTimeout(() => this.#lost(), PONG_WITHIN_MS);
  }

  #lost() {
    this.#abandon();
    this.#closed(1006, "");
  }

  #closed(code, reason) {
    if (this.live && performance.now() - this.#liveSince > STABLE_MS) this.#attempt = 0;
    this.#abandon();
    const next = afterClose(code, reason, this.#attempt, this.#toldMs);
    if (next.stop) return this.#enter({ name: "stopped", code, why: next.stop });
    this.#attempt += 1;
    this.#wait(next.delayMs);
  }

  #wait(delayMs) {
    this.#retryTimer = setTimeout(() => this.open(), delayMs);
    this.#enter({ name: "waiting", until: Date.now() + delayMs });
  }

  /** Lets go of the socket: nothing that it still says is heard. */
  #abandon() {
    clearInterval(this.#pingTimer);
    clearTimeout(this.#pongTimer);
    this.#pongTimer = 0;
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #enter(state) {
    this.state = state;
    this.onState(state);
  }
}

// ---------------------------------------------------------------------------------------------------- room

/** What this page knows of one room, across connections. Knows nothing of sockets or of the document. */
class Room {
  epoch = "";
  head = 0;
  /** Everything up to here was seen, without a hole; null until the first replay tells where the log begins for us. */
  position = null;
  /** Offset → message. A message with `text` undefined is one's own, told by `own`, whose text is still to be fetched. */
  messages = new Map();
  /** One's publishes that the log may not have yet, in order. Each is sent again, with its key, until it is acked. */
  pending = [];
  /** Joined on the present connection, and read up to the head: publishes may go out. */
  ready = false;
  joined = false;
  /** Offsets before which a divider stands: `{after, text}` or `{after, missedUpTo}`. */
  dividers = [];
  unread = 0;
  /** What was there before we came isn't unread. */
  backlogEnd = 0;
  /** Who is typing → until when that is believed. */
  typing = new Map();
  /** Why this room is closed to us, or null. */
  refused = null;
  earlier = true;
  askingEarlier = false;

  constructor(name) {
    this.name = name;
  }

  join() {
    const resume = this.position === null ? {} : { since: this.position, epoch: this.epoch };
    return { type: "join", room: this.name, ref: `join ${this.name}`, last: BACKLOG, ...resume };
  }

  onJoined({ offset, epoch, recovered, reason }) {
    const resumed = this.position !== null;
    const before = this.position;
    this.joined = true;
    this.refused = null;
    if (resumed && !recovered && reason === "epoch") {
      this.#startOver();
      this.dividers = [{ after: 0, text: "This room was started anew" }];
    } else if (resumed && !recovered) {
      this.position = null;
      this.dividers = [{ after: before, text: "Messages older than the server keeps were left out here" }];
    } else if (resumed) {
      this.dividers = this.dividers.filter((divider) => divider.text);
      if (offset > before) this.dividers.push({ after: before, missedUpTo: offset });
    }
    this.epoch = epoch;
    this.head = offset;
    if (!resumed) this.backlogEnd = offset;
    if (offset === 0) this.position = 0;
  }

  /** Takes a stored message, or the news of one's own (`own`), in the order of the log. False if it was known. */
  onStored(message) {
    const { offset, epoch } = message;
    if (offset === 1 && epoch && epoch !== this.epoch) {
      if (this.head > 0) this.#startOver();
      this.epoch = epoch;
    }
    // The first one tells where our part of the log begins: at itself, or, when the replay had nothing, at the head.
    this.position ??= offset <= this.head ? offset - 1 : this.head;
    return this.#keep(message);
  }

  onAck({ offset, id, ts, ref }, sender, now) {
    const index = this.pending.findIndex((publish) => publish.key === ref);
    if (index < 0) return false;
    const [publish] = this.pending.splice(index, 1);
    this.#keep({ offset, id, ts, sender, own: true, text: publish.text, node: publish.node, ackMs: now - publish.sentAt });
    return true;
  }

  /** One's own message in a replay: the text is still here if this page sent it in this life. */
  onOwn({ offset, id, ts, key }, sender) {
    const index = this.pending.findIndex((publish) => publish.key === key);
    const [publish] = index < 0 ? [] : this.pending.splice(index, 1);
    this.onStored({ offset, id, ts, sender, own: true, text: publish?.text, node: publish?.node });
  }

  /** Older messages, or the texts of one's own. */
  onHistory(messages, toMessage) {
    for (const found of messages) {
      const known = this.messages.get(found.offset);
      if (known && known.text === undefined) known.text = toMessage(found).text;
      else if (!known) this.messages.set(found.offset, toMessage(found));
    }
  }

  onDisconnect() {
    this.ready = this.joined = this.askingEarlier = false;
    this.typing.clear();
    for (const publish of this.pending) if (publish.state === "sent") publish.state = "waiting";
  }

  get caughtUp() {
    return this.joined && this.position !== null && this.position >= this.head;
  }

  /** Own messages whose text must be fetched, oldest first. */
  get textless() {
    return this.sorted().filter((message) => message.text === undefined);
  }

  /** How many of a divider's messages came from others; one's own weren't missed. */
  missed({ after, missedUpTo }) {
    let count = 0;
    for (const { offset, own } of this.messages.values()) if (offset > after && offset <= missedUpTo && !own) count += 1;
    return count;
  }

  sorted() {
    return [...this.messages.values()].sort((a, b) => a.offset - b.offset);
  }

  #keep(message) {
    this.head = Math.max(this.head, message.offset);
    const isNew = !this.messages.has(message.offset);
    if (isNew) this.messages.set(message.offset, message);
    if (this.position !== null) while (this.messages.has(this.position + 1)) this.position += 1;
    if (this.messages.size > KEPT_MESSAGES) {
      this.messages.delete(Math.min(...this.messages.keys()));
      this.earlier = true;
    }
    return isNew;
  }

  #startOver() {
    this.messages.clear();
    this.dividers = [];
    this.head = this.backlogEnd = 0;
    this.position = null;
    this.earlier = true;
  }
}

// ---------------------------------------------------------------------------------------------------- chat

/** Joins the connection and the rooms: what is sent when, and where each frame goes. */
class Chat {
  rooms = new Map();
  limits = { frameBytes: 65_536 };
  lastAckMs = null;
  #typingSent = 0;

  constructor(token, view) {
    this.view = view;
    this.userId = subjectOf(token) ?? "you";
    this.connection = new Connection(token, stored.clientId(), (frame) => this.onFrame(frame), (state) => this.onState(state));
    for (const name of stored.rooms()) this.room(name);
    for (const { room, ...publish } of stored.pending()) this.room(room).pending.push({ ...publish, state: "waiting" });
  }

  room(name) {
    if (!this.rooms.has(name)) {
      this.rooms.set(name, new Room(name));
      stored.saveRooms([...this.rooms.keys()]);
      this.#join(this.rooms.get(name));
    }
    return this.rooms.get(name);
  }

  onState(state) {
    if (state.name === "live") {
      this.userId = state.userId;
      Object.assign(this.limits, state.limits);
      for (const room of this.rooms.values()) this.#join(room);
    } else {
      for (const room of this.rooms.values()) room.onDisconnect();
    }
    this.view.refresh();
  }

  onFrame(frame) {
    const room = this.rooms.get(frame.room);
    if (frame.type === "error") this.#onError(frame, room);
    else if (!room) return; // The personal room is always joined, and this page doesn't show it.
    else if (frame.type === "joined") this.#onJoined(frame, room);
    else if (frame.type === "message" && frame.ephemeral) this.#onTyping(frame, room);
    else if (frame.type === "message") this.#onMessage(frame, room);
    else if (frame.type === "own") room.onOwn(frame, this.userId);
    else if (frame.type === "ack") this.#onAck(frame, room);
    else if (frame.type === "history") this.#onHistory(frame, room);
    else if (frame.type === "left") room.joined = room.ready = false;
    if (room?.caughtUp && !room.ready) this.#onCaughtUp(room);
    this.view.refresh();
  }

  publish(room, text) {
    const publish = { key: randomId(), text, state: "waiting", sentAt: 0 };
    room.pending.push(publish);
    this.#typingSent = 0;
    if (room.ready) this.#send(room, publish);
    this.#savePending();
    this.view.refresh();
  }

  publishAgain(room, publish) {
    publish.state = "waiting";
    if (room.ready) this.#send(room, publish);
    this.view.refresh();
  }

  /** Told to the others at most every two seconds; it isn't stored, and nobody minds if it's lost. */
  typing(room) {
    if (!room.ready || Date.now() - this.#typingSent < TYPING_EVERY_MS) return;
    this.#typingSent = Date.now();
    this.connection.send({ type: "broadcast", room: room.name, payload: { typing: true }, ephemeral: true });
  }

  askEarlier(room) {
    const first = room.sorted()[0];
    if (!first || !room.joined || room.askingEarlier) return;
    room.askingEarlier = true;
    this.connection.send({ type: "history", room: room.name, ref: "earlier", before: first.offset, limit: BACKLOG });
  }

  #join(room) {
    this.connection.send(room.join());
  }

  #onJoined(frame, room) {
    room.onJoined(frame);
    const { connectionId } = this.connection.state;
    setTimeout(() => {
      if (room.position !== null || this.connection.state.connectionId !== connectionId) return;
      room.position = room.head;
      this.#onCaughtUp(room);
    }, SILENT_REPLAY_MS);
  }

  #onCaughtUp(room) {
    room.ready = true;
    for (const publish of room.pending) if (publish.state === "waiting") this.#send(room, publish);
    this.#savePending();
    this.#askTexts(room);
  }

  /** After a reload this page no longer has the texts that it sent; the log has. */
  #askTexts(room) {
    const textless = room.textless;
    if (!textless.length) return;
    const first = textless[0].offset;
    const limit = Math.min(1_000, textless.at(-1).offset - first + 1);
    this.connection.send({ type: "history", room: room.name, ref: `texts ${first}`, after: first - 1, limit });
  }

  #send(room, publish) {
    publish.state = "sent";
    publish.sentAt = performance.now();
    const { key, text } = publish;
    this.connection.send({ type: "broadcast", room: room.name, payload: { text }, ref: key, key });
  }

  #onMessage(frame, room) {
    room.typing.delete(frame.sender);
    const isNew = room.onStored({ ...this.#toMessage(frame), epoch: frame.epoch });
    const isNews = isNew && frame.offset > room.backlogEnd && frame.sender !== this.userId;
    if (isNews && !this.view.isSeen(room)) room.unread += 1;
  }

  #onAck(frame, room) {
    if (!room.onAck(frame, this.userId, performance.now())) return;
    this.lastAckMs = room.messages.get(frame.offset)?.ackMs ?? this.lastAckMs;
    this.#savePending();
    // Who writes a room's first message isn't sent it, and so learns the new epoch by asking.
    if (!room.epoch) this.connection.send({ type: "history", room: room.name, ref: "epoch", after: 0, limit: 1 });
  }

  #onHistory(frame, room) {
    room.epoch ||= frame.epoch;
    if (frame.ref === "epoch") return;
    room.onHistory(frame.messages, (found) => this.#toMessage(found));
    if (frame.ref === "earlier") {
      room.askingEarlier = false;
      room.earlier = frame.more;
    } else {
      const first = room.textless[0]?.offset;
      // What the log no longer has is given up; what did not fit into one answer is asked for.
      if (first !== undefined && frame.ref !== `texts ${first}`) this.#askTexts(room);
    }
  }

  #onTyping({ sender, payload }, room) {
    if (sender === this.userId || !payload?.typing) return;
    room.typing.set(sender, Date.now() + TYPING_SHOWN_MS);
    setTimeout(() => this.view.refresh(), TYPING_SHOWN_MS + 50);
  }

  #onError({ code, message, ref, retryAfterMs }, named) {
    for (const room of this.rooms.values()) {
      const publish = room.pending.find(({ key }) => key === ref);
      const mayRetry = ["unavailable", "internal", "rate_limited"].includes(code);
      if (publish && mayRetry) {
        // The key makes it safe to send again what may have been stored.
        publish.state = "waiting";
        setTimeout(() => publish.state === "waiting" && room.ready && this.#send(room, publish), retryAfterMs ?? BACKOFF_FIRST_MS);
      } else if (publish) {
        Object.assign(publish, { state: "failed", why: message });
        this.#savePending();
      } else if (ref === `join ${room.name}` && mayRetry) {
        setTimeout(() => !room.joined && this.#join(room), retryAfterMs ?? BACKOFF_FIRST_MS);
      } else if (ref === `join ${room.name}`) {
        room.refused = code === "forbidden" ? "Your token doesn’t open this room." : message;
      }
    }
    if (named && ref === "earlier") named.askingEarlier = false;
    if (named && ref === undefined && code === "forbidden") named.refused = "Your token no longer opens this room.";
  }

  #toMessage({ offset, id, ts, sender, payload }) {
    return { offset, id, ts, sender, own: sender === this.userId, ...textOf(payload) };
  }

  #savePending() {
    const all = [...this.rooms.values()];
    stored.savePending(all.flatMap(({ name, pending }) =>
      pending.filter(({ state }) => state !== "failed").map(({ key, text }) => ({ room: name, key, text }))));
  }
}

/** This page writes `{"text": …}`; what others publish is shown as it is. */
function textOf(payload) {
  if (typeof payload === "string") return { text: payload };
  if (typeof payload?.text === "string") return { text: payload.text };
  return { text: JSON.stringify(payload), code: true };
}

function subjectOf(token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(claims), (char) => char.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)).sub;
  } catch {
    return undefined;
  }
}

function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What outlives a reload, in this tab only. */
const stored = {
  token: () => sessionStorage.getItem("carillon.token"),
  saveToken: (token) => sessionStorage.setItem("carillon.token", token),
  rooms: () => JSON.parse(sessionStorage.getItem("carillon.rooms")) ?? FIRST_ROOMS,
  saveRooms: (names) => sessionStorage.setItem("carillon.rooms", JSON.stringify(names)),
  pending: () => JSON.parse(sessionStorage.getItem("carillon.pending")) ?? [],
  savePending: (pending) => sessionStorage.setItem("carillon.pending", JSON.stringify(pending)),
  clientId() {
    const id = sessionStorage.getItem("carillon.client") ?? randomId();
    sessionStorage.setItem("carillon.client", id);
    return id;
  },
  /** A duplicated tab starts with a copy of all this; it must not be taken for the same client. */
  keepClientToOneTab() {
    this.claimed ??= this.claimClient();
    return this.claimed;
  },
  async claimClient() {
    const claim = (id) => new Promise((resolve) => {
      navigator.locks.request(`carillon.client.${id}`, { ifAvailable: true }, (lock) => {
        resolve(Boolean(lock));
        return lock && new Promise(() => {}); // Held until this page goes.
      });
    });
    // Without a secure context there are no locks, and duplicated tabs are not told apart.
    while (navigator.locks && !(await claim(this.clientId()))) {
      sessionStorage.removeItem("carillon.client");
      sessionStorage.removeItem("carillon.pending");
    }
  },
};

// ---------------------------------------------------------------------------------------------------- view

const $ = (id) => document.getElementById(id);

/** Makes an element. Text is always set as text, so nothing that a user wrote is ever read as markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Makes `parent`'s children be `wanted`, moving as little as possible, so that a screen reader hears only what is new. */
function arrange(parent, wanted) {
  let at = parent.firstChild;
  for (const node of wanted) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const names = new Intl.ListFormat("en", { type: "conjunction" });

class View {
  chat = null;
  room = null;
  #refreshing = false;
  #shownRoom = null;
  #atBottom = true;
  #unseen = 0;
  #announced = "";
  #countdown = 0;

  enter(chat, roomName) {
    this.chat = chat;
    document.body.dataset.view = "chat";
    $("welcome").hidden = true;
    $("chat").hidden = false;
    this.show(roomName);
  }

  show(roomName) {
    this.room = this.chat.room(roomName);
    this.room.unread = 0;
    this.refresh();
  }

  isSeen(room) {
    return room === this.room && !document.hidden;
  }

  /** Many frames may come at once; the document is brought up to date once for all of them. */
  refresh() {
    if (this.#refreshing) return;
    this.#refreshing = true;
    const soon = document.hidden ? (draw) => setTimeout(draw, 50) : requestAnimationFrame;
    soon(() => {
      this.#refreshing = false;
      if (this.room) this.#draw();
    });
  }

  #draw() {
    const { state } = this.chat.connection;
    document.body.dataset.state = state.name;
    this.#drawState(state);
    this.#drawRooms();
    this.#drawFacts();
    this.#drawLog();
    this.#drawTyping();
  }

  #drawState(state) {
    const seconds = state.name === "waiting" ? Math.max(1, Math.ceil((state.until - Date.now()) / 1000)) : 0;
    const short = {
      connecting: state.again ? "Reconnecting…" : "Connecting…",
      live: "Live",
      waiting: `Reconnecting in ${seconds} s`,
      stopped: "Stopped",
    }[state.name];
    setText($("state-text"), short);
    $("drop").disabled = state.name !== "live";

    const refused = this.room.refused;
    const away = state.name === "waiting" || (state.name === "connecting" && state.again);
    $("banner").hidden = !(refused || away || state.name === "stopped");
    $("banner").className = refused || state.name === "stopped" ? "banner bad" : "banner";
    $("banner-action").hidden = Boolean(refused && state.name === "live") || state.name === "connecting";
    if (state.name === "stopped") {
      setText($("banner-text"), `${state.why} (${state.code})`);
      setText($("banner-action"), [4001, 4004].includes(state.code) ? "Use another token" : "Connect again");
    } else if (away) {
      setText($("banner-text"), "You’re offline. What you write is kept, and sent when the connection is back.");
      setText($("banner-action"), "Reconnect now");
    } else if (refused) {
      setText($("banner-text"), refused);
    }

    // The countdown is for the eye; a screen reader hears each change of state once.
    const spoken = { live: "Connected", waiting: "Connection lost, reconnecting", stopped: `Disconnected. ${state.why}` }[state.name];
    if (spoken && spoken !== this.#announced) {
      if (this.#announced || spoken !== "Connected") setText($("announce"), spoken);
      this.#announced = spoken;
    }
    clearTimeout(this.#countdown);
    if (state.name === "waiting") this.#countdown = setTimeout(() => this.refresh(), 250);
  }

  #drawRooms() {
    const items = [...this.chat.rooms.values()].map((room) => {
      room.item ??= this.#makeRoomItem(room);
      room.item.link.toggleAttribute("data-refused", Boolean(room.refused));
      if (room === this.room) room.item.link.setAttribute("aria-current", "page");
      else room.item.link.removeAttribute("aria-current");
      room.item.badge.hidden = room.unread === 0;
      setText(room.item.count, room.unread > 99 ? "99+" : String(room.unread));
      return room.item.element;
    });
    arrange($("rooms"), items);
    const unread = [...this.chat.rooms.values()].reduce((sum, room) => sum + room.unread, 0);
    document.title = `${unread ? `(${unread}) ` : ""}#${this.room.name} · Carillon`;
  }

  #makeRoomItem(room) {
    const count = make("span");
    const badge = make("span", { class: "badge" }, count, make("span", { class: "sr" }, " unread"));
    const link = make("a", { href: `#${new URLSearchParams({ room: room.name })}` },
      make("span", { class: "hash", "aria-hidden": "true" }, "#"), make("span", { class: "room-link-name" }, room.name), badge);
    return { element: make("li", {}, link), link, badge, count };
  }

  #drawFacts() {
    const { room, chat } = this;
    setText($("room-name"), room.name);
    $("text").placeholder = `Message #${room.name}`;
    setText($("text-label"), `Message to room ${room.name}`);
    const { position, head } = room;
    const hole = position !== null && head > position;
    setText($("fact-head"), head ? `#${head}` : "empty");
    setText($("fact-seen"), position === null ? "–" : hole ? `up to #${position}` : "all, no holes");
    setText($("fact-epoch"), room.epoch || "–");
    setText($("fact-ack"), chat.lastAckMs === null ? "–" : milliseconds(chat.lastAckMs));
    const facts = [head ? `#${head}` : "no messages yet"];
    if (head && position !== null) facts.push(hole ? `seen up to #${position}` : "no holes");
    if (chat.lastAckMs !== null) facts.push(`ack ${milliseconds(chat.lastAckMs)}`);
    setText($("room-line"), facts.join(" · "));

    setText($("me-name"), chat.userId);
    setText($("me-client"), `client ${chat.connection.clientId.slice(0, 6)}`);
    paintAvatar($("me-avatar"), chat.userId);
    $("text").disabled = Boolean(room.refused);
    this.drawSend();
  }

  drawSend() {
    const tooLong = new TextEncoder().encode($("text").value).length > this.chat.limits.frameBytes - 1024;
    $("text").setCustomValidity(tooLong ? "This is more than the server takes in one message." : "");
    $("send-button").disabled = tooLong || $("text").disabled || $("text").value.trim() === "";
  }

  #drawLog() {
    const { room } = this;
    const scroll = $("scroll");
    const switched = this.#shownRoom !== room;
    if (switched) {
      this.#shownRoom = room;
      // On a phone the rooms are one line, which may have to be moved to show this one.
      room.item.link.scrollIntoView({ block: "nearest", inline: "center" });
      this.#atBottom = true;
      this.#unseen = 0;
    }
    // Silent until the room has been read up to its head: nobody wants fifty old messages read out.
    scroll.setAttribute("aria-live", room.ready && !switched ? "polite" : "off");
    const heightBefore = scroll.scrollHeight;
    const topBefore = scroll.scrollTop;
    const firstBefore = $("log").querySelector("[data-offset]")?.dataset.offset;
    const lastBefore = Number($("log").dataset.last ?? 0);

    const messages = room.sorted();
    arrange($("log"), this.#makeLines(messages));
    const last = messages.at(-1)?.offset ?? 0;
    $("log").dataset.last = last;

    const empty = messages.length === 0 && room.pending.length === 0;
    $("empty").hidden = !(empty && room.caughtUp);
    const first = messages[0]?.offset;
    $("earlier").hidden = !(first > 1 && room.earlier && room.joined);
    $("beginning").hidden = first !== 1;

    if (this.#atBottom) {
      scroll.scrollTop = scroll.scrollHeight;
      this.#unseen = 0;
    } else if (firstBefore !== undefined && Number(firstBefore) > first) {
      scroll.scrollTop = topBefore + scroll.scrollHeight - heightBefore;
    } else if (last > lastBefore) {
      this.#unseen += last - lastBefore;
    }
    $("jump").hidden = this.#atBottom;
    setText($("jump"), this.#unseen ? `↓ ${this.#unseen} new` : "↓ Newest");
  }

  /** The log's nodes in order: messages, one's unsent ones, and between them days and dividers. */
  #makeLines(messages) {
    const lines = [];
    let previous = null;
    const dividers = [...this.room.dividers].sort((a, b) => a.after - b.after);
    for (const message of messages) {
      let apart = !previous || message.sender !== previous.sender || message.ts - previous.ts > GROUP_MS;
      const day = calendar.format(message.ts);
      if (!previous || day !== calendar.format(previous.ts)) {
        message.dayNode ??= make("li", { class: "divider day" }, make("span", {}, day));
        lines.push(message.dayNode);
        apart = true;
      }
      while (dividers.length && dividers[0].after < message.offset) {
        const node = this.#dividerNode(dividers.shift());
        if (node) lines.push(node);
        apart ||= Boolean(node);
      }
      message.node ??= makeMessageNode();
      this.#fillMessage(message, apart);
      lines.push(message.node);
      previous = message;
    }
    for (const publish of this.room.pending) {
      publish.node ??= makeMessageNode();
      this.#fillPending(publish, !previous?.own);
      lines.push(publish.node);
      previous = { own: true };
    }
    return lines;
  }

  #dividerNode(divider) {
    const missed = divider.text ? 0 : this.room.missed(divider);
    if (!divider.text && !missed) return null;
    divider.node ??= make("li", { class: "divider missed" }, make("span"));
    setText(divider.node.firstChild, divider.text ?? `${missed} ${missed === 1 ? "message" : "messages"} you missed`);
    return divider.node;
  }

  #fillMessage(message, apart) {
    const { node } = message;
    node.className = `message${message.own ? " own" : ""}${apart ? " first" : ""}${message.text === undefined ? " fetching" : ""}`;
    node.dataset.offset = message.offset;
    node.parts.fill(message.sender, message.text ?? "…", Boolean(message.code), message.ts);
    const ack = message.ackMs === undefined ? "" : milliseconds(message.ackMs);
    setText(node.parts.meta, `#${message.offset}${ack && ` · ${ack}`}`);
    node.parts.meta.title = `Offset ${message.offset} of this room${ack && `, stored and acknowledged after ${ack}`}`;
    node.parts.again.hidden = true;
  }

  #fillPending(publish, apart) {
    const { node } = publish;
    node.className = `message own pending${apart ? " first" : ""}${publish.state === "failed" ? " failed" : ""}`;
    node.parts.fill(this.chat.userId, publish.text, false, undefined);
    setText(node.parts.meta, { waiting: "waiting", sent: "sending", failed: `not sent: ${publish.why}` }[publish.state]);
    node.parts.again.hidden = publish.state !== "failed";
    node.parts.again.onclick = () => this.chat.publishAgain(this.room, publish);
  }

  #drawTyping() {
    const now = Date.now();
    for (const [user, until] of this.room.typing) if (until <= now) this.room.typing.delete(user);
    const typing = [...this.room.typing.keys()].slice(0, 3);
    setText($("typing"), typing.length ? `${names.format(typing)} ${typing.length === 1 ? "is" : "are"} typing…` : "");
  }

  onScroll() {
    const scroll = $("scroll");
    const atBottom = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 48;
    if (atBottom === this.#atBottom) return;
    this.#atBottom = atBottom;
    this.refresh();
  }

  /** The room for the log changed, for one by a phone's keyboard: who read the newest goes on reading it. */
  onResize() {
    if (this.#atBottom) $("scroll").scrollTop = $("scroll").scrollHeight;
  }

  toNewest() {
    this.#atBottom = true;
    this.refresh();
  }
}

function makeMessageNode() {
  const avatar = make("span", { class: "avatar", "aria-hidden": "true" });
  const sender = make("b");
  const time = make("time");
  const text = make("p", { class: "bubble", dir: "auto" });
  const meta = make("span", { class: "meta" });
  const again = make("button", { type: "button", class: "quiet", hidden: true }, "Try again");
  const node = make("li", { class: "message" }, avatar,
    make("div", { class: "who" }, sender, time), make("div", { class: "row" }, text, meta, again));
  node.parts = {
    meta,
    again,
    fill(name, words, isCode, ts) {
      setText(sender, name);
      setText(text, words);
      text.classList.toggle("code", isCode);
      paintAvatar(avatar, name);
      if (ts === undefined) return;
      setText(time, clock.format(ts));
      time.dateTime = new Date(ts).toISOString();
      time.title = moment.format(ts);
    },
  };
  return node;
}

function paintAvatar(avatar, name) {
  if (avatar.dataset.of === name) return;
  avatar.dataset.of = name;
  setText(avatar, [...name][0]?.toUpperCase() ?? "?");
  let hash = 0;
  for (const char of name) hash = (hash * 31 + char.codePointAt(0)) % 360;
  avatar.style.setProperty("--hue", hash);
}

/** Leaves the node alone when nothing changed: a live region would speak again, a selection would be lost. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function milliseconds(value) {
  return value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

// --------------------------------------------------------------------------------------------------- start

const view = new View();
let chat = null;

/** `#token=<JWT>&room=lobby`: a fragment never reaches a server or its logs. The token is taken out of the address at once. */
async function onAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  const token = address.get("token");
  const roomName = address.get("room") || FIRST_ROOMS[0];
  if (token) {
    if (subjectOf(token) !== subjectOf(stored.token() ?? "")) stored.savePending([]);
    stored.saveToken(token);
    history.replaceState(null, "", `#${new URLSearchParams({ room: roomName })}`);
  }
  if (token || (!chat && stored.token())) {
    await stored.keepClientToOneTab();
    chat?.connection.close();
    chat = new Chat(stored.token(), view);
    view.enter(chat, roomName);
    chat.connection.open();
    if (matchMedia("(pointer: fine)").matches) $("text").focus();
  } else if (chat) {
    view.show(roomName);
  } else {
    askForToken();
  }
}

function askForToken() {
  document.body.dataset.view = "welcome";
  $("chat").hidden = true;
  $("welcome").hidden = false;
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  // A whole link is welcome as well.
  const pasted = $("token-input").value.trim();
  const token = /[#&?]token=([^&\s]+)/.exec(pasted)?.[1] ?? pasted;
  $("token-input").value = "";
  const room = new URLSearchParams(location.hash.slice(1)).get("room") || FIRST_ROOMS[0];
  location.hash = `#${new URLSearchParams({ token, room })}`;
});

$("room-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("room-input").value.trim().replace(/^#/, "");
  if (!name) return;
  $("room-input").value = "";
  location.hash = `#${new URLSearchParams({ room: name })}`;
  $("text").focus();
});

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || $("send-button").disabled) return;
  chat.publish(view.room, text);
  $("text").value = "";
  fitComposer();
  view.toNewest();
});

$("text").addEventListener("keydown", (event) => {
  // While an input method is composing, Enter chooses a word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

$("text").addEventListener("input", () => {
  fitComposer();
  if ($("text").value) chat.typing(view.room);
});

function fitComposer() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
  view.drawSend();
}

$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // The fragment names the room.
  $("text").focus();
});
$("drop").addEventListener("click", () => chat.connection.drop(DROPPED_MS));
$("earlier").addEventListener("click", () => chat.askEarlier(view.room));
$("jump").addEventListener("click", () => view.toNewest());
$("scroll").addEventListener("scroll", () => view.onScroll(), { passive: true });
new ResizeObserver(() => view.onResize()).observe($("scroll"));
$("banner-action").addEventListener("click", () => {
  if ([4001, 4004].includes(chat.connection.state.code)) askForToken();
  else chat.connection.open();
});

addEventListener("hashchange", onAddress);
addEventListener("online", () => chat?.connection.state.name === "waiting" && chat.connection.open());
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !view.room) return;
  view.room.unread = 0;
  view.refresh();
});

onAddress();
