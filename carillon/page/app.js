// A small chat on the SDK. It shows what a page gets from a room: messages once and in order, offsets 1, 2, 3, … by
// which it can prove that it missed nothing, publishes that are stored once, and who is there.
//
// From top to bottom: a room as this page shows it, the chat that joins rooms and client, and the view. Only the view touches
// the document; what happens on the wire is the SDK's.

import { Carillon } from "./carillon.js";

/** Messages asked for when a room is entered for the first time. */
const BACKLOG = 50;
/** Messages kept per room; older ones can be fetched again. */
const KEPT_MESSAGES = 1_000;
/** How long "Drop my connection" stays away: long enough to miss something. */
const DROPPED_MS = 5_000;
const TYPING_EVERY_MS = 2_000;
const TYPING_SHOWN_MS = 5_000;
/** Messages of one sender within this time stand together under one name. */
const GROUP_MS = 5 * 60_000;
const FIRST_ROOMS = ["lobby", "design", "support"];

const STOPPED = {
  payload_too_large: "A message was larger than this server allows.",
  unauthorized: "This token isn’t valid, or was revoked.",
  protocol_error: "The server didn’t understand this page.",
  forbidden: "An admin closed this connection.",
  token_expired: "This token has expired.",
};

// ---------------------------------------------------------------------------------------------------- room

/** What this page shows of one room. */
class Room {
  /** Offset → message, as far as they are kept. */
  messages = new Map();
  /** One's publishes that have no place in the log yet, in order. */
  pending = [];
  /** Offsets before which a divider stands: `{after, text}` or `{after, missedUpTo}`. */
  dividers = [];
  unread = 0;
  /** Who is typing → until when that is believed. */
  typing = new Map();
  earlier = true;
  askingEarlier = false;
  /** What was there before we came isn't unread. Null until that is known. */
  #backlogEnd = null;
  /** Where we were when the connection broke. */
  #brokenAt = null;

  constructor(log, chat) {
    Object.assign(this, { name: log.name, log, chat });
    log.on("message", (message) => this.#onMessage(message));
    log.on("ephemeral", (ephemeral) => this.#onTyping(ephemeral));
    log.on("gap", (gap) => this.#onGap(gap));
    log.on("change", (state) => this.#onChange(state));
    log.on("presence", () => chat.view.refresh());
  }

  /** Read up to the head: what is written now goes out now. */
  get ready() {
    return this.log.state === "live";
  }

  get position() {
    return this.log.position?.offset ?? null;
  }

  /** Why this room is closed to us, or null. */
  get refused() {
    if (this.log.state !== "refused") return null;
    return this.log.error.code === "forbidden" ? "Your token doesn’t open this room." : this.log.error.message;
  }

  /** The names of those who are here, oneself first. */
  get people() {
    const { present } = this.log;
    const others = (present?.members ?? []).map(({ userId }) => userId).filter((userId) => userId !== this.chat.userId);
    return this.ready ? [this.chat.userId, ...others.sort((a, b) => a.localeCompare(b))] : [];
  }

  publish(publish) {
    this.pending.push(publish);
    this.#send(publish);
  }

  publishAgain(publish) {
    publish.why = undefined;
    this.#send(publish);
  }

  async askEarlier() {
    const first = this.sorted()[0];
    if (!first || !this.ready || this.askingEarlier) return;
    this.askingEarlier = true;
    try {
      const { messages, more } = await this.log.history({ before: first.offset, limit: BACKLOG });
      for (const message of messages) this.messages.set(message.offset, shown(message));
      this.earlier = more;
    } catch {
      this.earlier = false; // Not for us to read.
    }
    this.askingEarlier = false;
    this.chat.view.refresh();
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

  /** The SDK keeps it until it is stored, however often the connection breaks. */
  async #send(publish) {
    publish.sentAt = this.ready ? performance.now() : null;
    try {
      const { offset } = await this.log.publish({ text: publish.text }, { key: publish.key });
      const message = this.messages.get(offset);
      if (publish.sentAt !== null) this.chat.lastAckMs = performance.now() - publish.sentAt;
      if (message && publish.sentAt !== null) message.ackMs = this.chat.lastAckMs;
      this.pending = this.pending.filter((other) => other !== publish);
    } catch (error) {
      publish.why = STOPPED[error.code] ?? error.message;
    }
    this.chat.onSettled();
  }

  #onMessage(message) {
    this.typing.delete(message.sender);
    const known = shown(message);
    const publish = this.pending.find(({ key }) => key === message.key);
    if (publish) known.node = publish.node;
    this.pending = this.pending.filter((other) => other !== publish);
    this.messages.set(message.offset, known);
    if (this.messages.size > KEPT_MESSAGES) {
      this.messages.delete(Math.min(...this.messages.keys()));
      this.earlier = true;
    }
    const isNews = this.#backlogEnd !== null && message.offset > this.#backlogEnd && !message.own;
    if (isNews && !this.chat.view.isSeen(this)) this.unread += 1;
    this.chat.view.refresh();
  }

  #onTyping({ sender, payload }) {
    if (sender === this.chat.userId || !payload?.typing) return;
    this.typing.set(sender, Date.now() + TYPING_SHOWN_MS);
    setTimeout(() => this.chat.view.refresh(), TYPING_SHOWN_MS + 50);
    this.chat.view.refresh();
  }

  #onGap({ reason, after }) {
    if (reason === "epoch") {
      this.messages.clear();
      this.earlier = true;
      this.dividers = [{ after: 0, text: "This room was started anew" }];
    } else {
      this.dividers = [{ after, text: "Messages older than the server keeps were left out here" }];
    }
    this.#brokenAt = null;
  }

  #onChange(state) {
    if (state === "live") {
      this.#backlogEnd ??= this.log.head;
      if (this.#brokenAt !== null) {
        this.dividers = this.dividers.filter((divider) => divider.text);
        if (this.log.head > this.#brokenAt) this.dividers.push({ after: this.#brokenAt, missedUpTo: this.log.head });
      }
      for (const publish of this.pending) publish.sentAt = performance.now();
    } else {
      this.#brokenAt = this.position;
      this.typing.clear();
      for (const publish of this.pending) publish.sentAt = null;
    }
    this.chat.view.refresh();
  }
}

/** A message as it is drawn. */
function shown({ offset, ts, sender, own, payload }) {
  return { offset, ts, sender, own, ...textOf(payload) };
}

// ---------------------------------------------------------------------------------------------------- chat

/** Joins the client and the rooms. */
class Chat {
  rooms = new Map();
  lastAckMs = null;
  #typingSent = 0;
  #wasConnected = false;
  #isOver = false;

  /** `kept` is what an earlier client of the same user could not send. */
  constructor(token, view, kept) {
    this.view = view;
    this.client = new Carillon({ url: location.origin, token, clientId: stored.clientId() });
    this.#subject = subjectOf(token) ?? "you";
    this.connection.on("change", (state) => {
      this.#wasConnected ||= state === "connected";
      view.refresh();
    });
    for (const name of stored.rooms()) this.room(name);
    for (const { room, ...publish } of kept) this.room(room).publish(publish);
  }

  #subject;

  get connection() {
    return this.client.connection;
  }

  get userId() {
    return this.connection.userId ?? this.#subject;
  }

  /** The connection in the words of the view. */
  get state() {
    const { state, error, retryAt } = this.connection;
    if (state === "connected") return { name: "live" };
    if (state === "waiting") return { name: "waiting", until: retryAt };
    if (state !== "stopped") return { name: "connecting", again: this.#wasConnected };
    return { name: "stopped", code: error.closeCode, why: STOPPED[error.code] ?? "The server closed this connection for good." };
  }

  end() {
    this.#isOver = true;
    this.client.close();
  }

  room(name) {
    if (!this.rooms.has(name)) {
      this.rooms.set(name, new Room(this.client.room(name, { last: BACKLOG }), this));
      stored.saveRooms([...this.rooms.keys()]);
    }
    return this.rooms.get(name);
  }

  publish(room, text) {
    this.#typingSent = 0;
    room.publish({ key: randomId(), text });
    this.onSettled();
  }

  publishAgain(room, publish) {
    room.publishAgain(publish);
    this.onSettled();
  }

  /** Told to the others at most every two seconds; it isn't stored, and nobody minds if it's lost. */
  typing(room) {
    if (!room.ready || Date.now() - this.#typingSent < TYPING_EVERY_MS) return;
    this.#typingSent = Date.now();
    room.log.ephemeral({ typing: true });
  }

  /** What waits, or could not be sent, outlives a reload and an expired token, with its key: so it is stored once all the same. */
  onSettled() {
    if (this.#isOver) return;
    const all = [...this.rooms.values()];
    stored.savePending(all.flatMap(({ name, pending }) => pending.map(({ key, text }) => ({ room: name, key, text }))));
    this.view.refresh();
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
  /** Name → its place in the list of those who are here. */
  #people = new Map();

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
    const { state } = this.chat;
    document.body.dataset.state = state.name;
    this.#drawState(state);
    this.#drawRooms();
    this.#drawFacts();
    this.#drawPeople();
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
    const { position } = room;
    const { head } = room.log;
    // Without a connection nobody knows what others have said meanwhile.
    const isAll = room.ready && head === position;
    setText($("fact-head"), head ? `#${head}` : "empty");
    setText($("fact-seen"), position === null ? "–" : isAll ? "all of it" : `up to #${position}`);
    setText($("fact-epoch"), room.log.position?.epoch || "–");
    setText($("fact-ack"), chat.lastAckMs === null ? "–" : milliseconds(chat.lastAckMs));
    const facts = [];
    if (room.ready) facts.push(`${room.log.present?.count || 1} here`);
    if (isAll || !head) facts.push(head ? `newest is #${head}` : "no messages yet");
    if (head && position !== null) facts.push(isAll ? "nothing missing" : `seen up to #${position}`);
    if (chat.lastAckMs !== null) facts.push(`stored in ${milliseconds(chat.lastAckMs)}`);
    setText($("room-line"), facts.join(" · "));

    setText($("me-name"), chat.userId);
    setText($("me-client"), `client ${chat.connection.clientId.slice(0, 6)}`);
    paintAvatar($("me-avatar"), chat.userId);
    $("text").disabled = Boolean(room.refused);
    this.drawSend();
  }

  #drawPeople() {
    const { room } = this;
    const { people } = room;
    const more = (room.log.present?.count ?? 0) - people.length;
    $("people-section").hidden = people.length === 0;
    const items = people.map((name) => {
      let item = this.#people.get(name);
      if (!item) this.#people.set(name, (item = makePerson(name)));
      item.classList.toggle("is-typing", room.typing.has(name));
      return item;
    });
    arrange($("people"), items);
    $("people-more").hidden = more <= 0;
    setText($("people-more"), `and ${more} more`);
  }

  drawSend() {
    const tooLong = new TextEncoder().encode($("text").value).length > this.chat.connection.limits.frameBytes - 1024;
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
    $("empty").hidden = !(empty && room.ready);
    const first = messages[0]?.offset;
    $("earlier").hidden = !(first > 1 && room.earlier && room.ready);
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
    node.className = `message${message.own ? " own" : ""}${apart ? " first" : ""}`;
    node.dataset.offset = message.offset;
    node.parts.fill(message.sender, message.text, Boolean(message.code), message.ts);
    const ack = message.ackMs === undefined ? "" : milliseconds(message.ackMs);
    setText(node.parts.meta, `#${message.offset}${ack && ` · ${ack}`}`);
    node.parts.meta.title = `Offset ${message.offset} of this room${ack && `, stored and acknowledged after ${ack}`}`;
    node.parts.again.hidden = true;
  }

  #fillPending(publish, apart) {
    const { node } = publish;
    node.className = `message own pending${apart ? " first" : ""}${publish.why ? " failed" : ""}`;
    node.parts.fill(this.chat.userId, publish.text, false, undefined);
    setText(node.parts.meta, publish.why ? `not sent: ${publish.why}` : publish.sentAt === null ? "waiting" : "sending");
    node.parts.again.hidden = !publish.why;
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

function makePerson(name) {
  const avatar = make("span", { class: "avatar", "aria-hidden": "true" });
  paintAvatar(avatar, name);
  return make("li", {}, avatar, make("span", { class: "person" }, name));
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
    const kept = stored.pending();
    // What the old client lets go of on its end is not for it to write down.
    chat?.end();
    chat = new Chat(stored.token(), view, kept);
    const wasAsked = document.body.dataset.view === "welcome";
    view.enter(chat, roomName);
    if (matchMedia("(pointer: fine)").matches) $("text").focus();
    // A phone's keyboard is not to jump up, but the focus must not be lost with the form that had it.
    else if (wasAsked) $("scroll").focus();
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
  // Who asked for this goes on from here; who has just come reads first.
  if (chat) $("token-input").focus();
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
$("details").addEventListener("click", () => showDetails($("details").getAttribute("aria-expanded") !== "true"));
$("chat").addEventListener("keydown", ({ key }) => {
  if (key !== "Escape" || !document.body.classList.contains("with-details")) return;
  showDetails(false);
  $("details").focus();
});

/** Who is here and how far one has read: beside the room, and on a small screen in its place when it is asked for. */
function showDetails(isShown) {
  $("details").setAttribute("aria-expanded", String(isShown));
  document.body.classList.toggle("with-details", isShown);
}
$("drop").addEventListener("click", () => chat.connection.drop(DROPPED_MS));
$("earlier").addEventListener("click", () => view.room.askEarlier());
$("jump").addEventListener("click", () => view.toNewest());
$("scroll").addEventListener("scroll", () => view.onScroll(), { passive: true });
new ResizeObserver(() => view.onResize()).observe($("scroll"));
$("banner-action").addEventListener("click", () => {
  if ([4001, 4004].includes(chat.state.code)) askForToken();
  else chat.client.connect();
});

addEventListener("hashchange", onAddress);
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !view.room) return;
  view.room.unread = 0;
  view.refresh();
});

onAddress();
