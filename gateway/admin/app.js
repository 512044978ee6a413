// What a gateway says about itself and the cluster, for whoever runs it: shown as it changes, with the few things that one can do.
//
// From top to bottom: questions to the server, what is reckoned from its answers, and the view. Only the view touches the document.
// Every list is cut by the server, so that a hundred thousand rooms cost this page no more than a hundred.

const ASK_EVERY_MS = 2_000;
/** A message appears soon after it was stored. */
const ROOM_EVERY_MS = 1_000;
/** An answer that takes longer is none. */
const ANSWER_WITHIN_MS = 10_000;
/** What the plots show: five minutes. */
const SAMPLES_MAX = 150;
/** A rate is that of so many samples: gateways tell each other their counts once in a while only. */
const RATE_SAMPLES = 4;
/** Lines of a page of a list. */
const ROWS_MAX = 100;
const MESSAGES_MAX = 20;

/** Close codes in words for people; the server's reason stands beside them. */
const CLOSES = {
  1000: "the client said goodbye",
  1001: "the client went away",
  1006: "the connection broke",
  1009: "the client sent too large a message",
  4001: "no token, a bad one, or one that was taken back",
  4002: "the client did not keep to the protocol",
  4003: "sent away by an admin",
  4004: "the token had ended",
  4100: "no room for it at the moment",
  4101: "the client read too slowly",
  4102: "the client sent too fast, for too long",
  4103: "nothing was heard from the client any more",
  4200: "the server was being replaced",
};
const DOORS = { native: "WebSocket", events: "Server-Sent Events", socketio: "Socket.IO", request: "HTTP" };

// ---------------------------------------------------------------------------------------------- questions

class Refused extends Error {
  constructor(status, { code, detail } = {}) {
    super(detail ?? `the server answered ${status}`);
    Object.assign(this, { status, code });
  }
}

/** Asks with the token. What the server refuses is a `Refused`; anything else that is thrown is the network's fault. */
class Api {
  constructor(token) {
    this.token = token;
  }

  overview = () => this.#ask("GET", "/admin/api/overview");
  connections = (user, after) => this.#ask("GET", `/admin/api/connections?${query({ user, after, limit: ROWS_MAX })}`);
  rooms = (search, sort, after) => this.#ask("GET", `/admin/api/rooms?${query({ search, sort, after, limit: ROWS_MAX })}`);
  messages = (room, after) => this.#ask("GET", `/rooms/${encodeURIComponent(room)}/messages?${query({ after, limit: after === undefined ? MESSAGES_MAX : 1_000 })}`);
  presence = (room) => this.#ask("GET", `/rooms/${encodeURIComponent(room)}/presence`);
  disconnect = (user) => this.#ask("POST", `/users/${encodeURIComponent(user)}/disconnect`);
  revoke = (what) => this.#ask("POST", "/revocations", what);
  erase = (room) => this.#ask("DELETE", `/rooms/${encodeURIComponent(room)}`);

  async #ask(method, path, body) {
    const headers = { Authorization: `Bearer ${this.token}`, ...(body && { "Content-Type": "application/json" }) };
    const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
    if (answer.status === 204) return undefined;
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Refused(answer.status, told);
    return told;
  }
}

/** Fields that are empty are left out. */
function query(fields) {
  return new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== undefined && value !== ""));
}

// --------------------------------------------------------------------------------------------- reckoning

/** Counts since each gateway's start become rates, and what was closed lately. Gateways come and go: each is compared with itself. */
class Samples {
  list = [];
  /** Of each gateway: its counts in the last samples, the oldest first. */
  #heard = new Map();
  #closes = [];

  add({ gateways, latency, closes }, now) {
    const rates = new Map();
    const next = new Map();
    for (const { id, counts } of gateways) {
      const heard = [...(this.#heard.get(id) ?? []), { counts, now }].slice(-RATE_SAMPLES - 1);
      const [oldest] = heard;
      const seconds = (now - oldest.now) / 1_000;
      const rate = (name) => (seconds > 0 ? Math.max(0, counts[name] - oldest.counts[name]) / seconds : undefined);
      rates.set(id, { publishes: rate("publishes"), deliveries: rate("deliveriesOut") });
      next.set(id, heard);
    }
    this.#heard = next;
    this.rates = rates;
    const total = (name) => {
      const known = [...rates.values()].map((rate) => rate[name]).filter((rate) => rate !== undefined);
      return known.length ? sum(known, (rate) => rate) : undefined;
    };
    const took = ({ p50Ms, p99Ms } = {}) => [p50Ms ?? undefined, p99Ms ?? undefined];
    keepLast(this.list, { publishes: [total("publishes")], deliveries: [total("deliveries")], stored: took(latency.publish), delivered: took(latency.delivery) });
    keepLast(this.#closes, new Map(closes.map((close) => [closeKey(close), close.count])));
  }

  get now() {
    return this.list.at(-1);
  }

  /** So many of this kind since the page began to look, or in the last minutes. */
  closedLately(close) {
    return Math.max(0, close.count - (this.#closes[0].get(closeKey(close)) ?? 0));
  }
}

function keepLast(list, sample) {
  list.push(sample);
  if (list.length > SAMPLES_MAX) list.shift();
}

const closeKey = ({ code, reason }) => `${code} ${reason}`;

/** Where one is in a long list: the cursors of the pages before, and of this one. */
class Pages {
  #before = [];
  after = undefined;

  constructor(id, onMoved) {
    this.nav = $(id);
    for (const button of this.nav.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        if (button.dataset.go === "on") [this.after, this.#before] = [this.next, [...this.#before, this.after]];
        else this.after = this.#before.pop();
        onMoved();
      });
    }
  }

  /** Another list: from its start. */
  reset() {
    [this.#before, this.after] = [[], undefined];
  }

  /** What the server said of this page. */
  show({ next, count: all }, shown) {
    this.next = next;
    const [back, on] = this.nav.querySelectorAll("button");
    this.nav.hidden = next === undefined && this.#before.length === 0;
    back.disabled = this.#before.length === 0;
    on.disabled = next === undefined;
    const first = this.#before.length * ROWS_MAX + 1;
    setText(this.nav.querySelector("span"), shown ? `${count(first)} to ${count(first + shown - 1)} of ${count(all)}` : `${count(all)} in all`);
  }
}

function sum(list, value) {
  return list.reduce((total, each) => total + (value(each) ?? 0), 0);
}

/** Connections of a gateway, by door; requests over HTTP come and go, and are none. */
function held({ connections }) {
  return Object.entries(connections).filter(([door]) => door !== "request");
}

// -------------------------------------------------------------------------------------------------- words

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

const count = (number) => whole.format(number ?? 0);
const perSecond = (rate) => (rate === undefined ? "–" : rate < 10 ? tenths.format(rate) : whole.format(rate));
const milliseconds = (ms) => (ms === undefined ? "–" : ms < 0.1 ? "under 0.1 ms" : `${ms < 10 ? tenths.format(ms) : whole.format(ms)} ms`);
const many = (number, one, more) => `${count(number)} ${number === 1 ? one : more}`;

function bytes(number = 0) {
  if (number < 1_024) return `${number} B`;
  return number < 1_048_576 ? `${tenths.format(number / 1_024)} KiB` : `${tenths.format(number / 1_048_576)} MiB`;
}

function ago(unixMs) {
  const minutes = Math.floor((Date.now() - unixMs) / 60_000);
  if (minutes < 1) return "< 1 min";
  if (minutes < 60) return `${minutes} min`;
  return minutes < 2_880 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.floor(minutes / 1_440)} days`;
}

// --------------------------------------------------------------------------------------------------- view

const $ = (id) => document.getElementById(id);

/** Makes an element. Text is always set as text, so nothing that a user wrote is ever read as markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Leaves the node alone when nothing changed: a selection would be lost, a live region would speak again. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Rows that are there stay, with the focus that one of them may have. */
class Rows {
  #made = new Map();

  constructor(parent, makeRow) {
    Object.assign(this, { parent, makeRow });
    // Of whoever was here before.
    parent.replaceChildren();
  }

  show(list, keyOf) {
    const wanted = new Map(list.map((each) => [keyOf(each), each]));
    for (const [key, row] of this.#made) {
      if (wanted.has(key)) continue;
      row.node.remove();
      this.#made.delete(key);
    }
    let at = this.parent.firstChild;
    for (const [key, each] of wanted) {
      let row = this.#made.get(key);
      if (!row) this.#made.set(key, (row = this.makeRow(each)));
      row.fill(each);
      if (row.node === at) at = at.nextSibling;
      else this.parent.insertBefore(row.node, at);
    }
  }
}

/** A row whose cells are these, the first a heading; `fill` gives their texts. */
function rowOf(first, classes, texts) {
  const cells = classes.map((name) => make("td", name ? { class: name } : {}));
  const node = make("tr", {}, make("th", { scope: "row" }, first), ...cells);
  return { node, cells, fill: (each) => texts(each).forEach((text, index) => setText(cells[index], text)) };
}

/** One line over time or two, drawn by hand. What they show is told in words, too. */
class Plot {
  static WIDTH = 300;
  static HEIGHT = 80;

  constructor(figure, name, format) {
    Object.assign(this, { name, format });
    const svg = (tag, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
      return element;
    };
    this.figure = svg("svg", { viewBox: `0 0 ${Plot.WIDTH} ${Plot.HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.area = svg("path", { class: "area" });
    this.lines = ["line slow", "line"].map((name) => svg("path", { class: name, "vector-effect": "non-scaling-stroke" }));
    this.figure.append(this.area, ...this.lines);
    this.told = make("p", { class: "told dim small", "aria-hidden": "true" });
    figure.replaceChildren(figure.querySelector("figcaption"), this.told, this.figure);
  }

  /** Each sample is a list: the value, and a second, larger one where there are two lines. */
  draw(samples) {
    const known = samples.flat().filter((value) => value !== undefined);
    const most = Math.max(...known, 0);
    const runs = samples[0]?.length === 2 ? [1, 0] : [undefined, 0];
    const paths = runs.map((index) => (index === undefined ? "" : this.#path(samples.map((sample) => sample[index]), most || 1)));
    paths.forEach((path, index) => this.lines[index].setAttribute("d", path.replaceAll("Z", "")));
    this.area.setAttribute("d", this.#area(paths[1]));
    const now = samples.at(-1)?.filter((value) => value !== undefined).map(this.format).join(" and ");
    const words = known.length ? `now ${now || "none"}, at most ${this.format(most)}` : "nothing yet";
    setText(this.told, words);
    this.figure.setAttribute("aria-label", `${this.name}: ${words}`);
  }

  /** Where nothing is known, the line is broken. */
  #path(values, top) {
    const step = Plot.WIDTH / (SAMPLES_MAX - 1);
    let isDrawing = false;
    return values.map((value, index) => {
      if (value === undefined) return (isDrawing = false), "";
      const x = Plot.WIDTH - (values.length - 1 - index) * step;
      const y = Plot.HEIGHT - 2 - (value / top) * (Plot.HEIGHT - 8);
      const to = `${isDrawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      isDrawing = true;
      return to;
    }).join("");
  }

  #area(path) {
    return path.split("M").slice(1).map((run) => {
      const points = run.split("L");
      const [first, last] = [points[0], points.at(-1)].map((point) => point.split(" ")[0]);
      return `M${first} ${Plot.HEIGHT}L${points.join("L")}L${last} ${Plot.HEIGHT}Z`;
    }).join("");
  }
}

class Desk {
  #samples = new Samples();
  #timer;
  #isOver = false;
  #roomCount;
  /** The gateway that answers. */
  #here = "";
  #room = null;
  #plots = {
    publishes: new Plot($("plot-publishes"), "Published a second", perSecond),
    deliveries: new Plot($("plot-deliveries"), "Delivered a second", perSecond),
    stored: new Plot($("plot-stored"), "Until a message is stored, half of them and 99 of 100", milliseconds),
    delivered: new Plot($("plot-delivered"), "Until it is with a member, half of them and 99 of 100", milliseconds),
  };
  #pages = { rooms: new Pages("rooms-pages", () => this.again()), connections: new Pages("connections-pages", () => this.again()) };
  #rows = {
    rooms: new Rows($("rooms"), (each) => this.#roomRow(each)),
    connections: new Rows($("connections"), (each) => this.#connectionRow(each)),
    closes: new Rows($("closes"), ({ code, reason }) => rowOf(CLOSES[code] ?? reason ?? "", ["number", "number", "number"], (close) => [`${close.code}`, count(this.#samples.closedLately(close)), count(close.count)])),
    gateways: new Rows($("gateways"), ({ id }) => rowOf(short(id), ["number", "number", "number", "number", ""], (gateway) => [
      count(sum(held(gateway), ([, number]) => number)), count(gateway.rooms), perSecond(this.#samples.rates.get(id)?.publishes), bytes(gateway.outboxBytes), ago(gateway.startedAt),
    ])),
    owners: new Rows($("owners"), () => {
      const node = make("li");
      return { node, fill: ({ partition, generation, fanout }) => {
        setText(node, fanout ? `${partition} at ${short(fanout)}` : `${partition}`);
        node.title = `generation ${generation}`;
      } };
    }),
    messages: new Rows($("room-messages"), (each) => messageRow(each)),
  };

  constructor(api, onRefused) {
    Object.assign(this, { api, onRefused });
  }

  start() {
    void this.#turn();
  }

  end() {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.closeRoom();
  }

  /** Another list is wished: from its first page. */
  find(list) {
    this.#pages[list].reset();
    this.again();
  }

  /** Asks again at once: what was searched for has changed, or something was done. */
  again() {
    clearTimeout(this.#timer);
    void this.#turn();
  }

  #turns = 0;

  async #turn() {
    const turn = ++this.#turns;
    const isCurrent = () => turn === this.#turns && !this.#isOver;
    try {
      const [overview, rooms, connections] = await Promise.all([
        this.api.overview(),
        this.api.rooms($("rooms-search").value.trim(), $("rooms-sort").value, this.#pages.rooms.after),
        this.api.connections($("connections-user").value.trim(), this.#pages.connections.after),
      ]);
      if (!isCurrent()) return;
      this.#samples.add(overview, performance.now());
      // A room with members at two gateways is one room: the list knows, as long as it is the whole list.
      if (!$("rooms-search").value.trim()) this.#roomCount = rooms.count;
      this.#showState("live", "Up to date");
      this.#showOverview(overview);
      this.#showRooms(rooms);
      this.#showConnections(connections);
    } catch (error) {
      if (!isCurrent()) return;
      if (error instanceof Refused && [401, 403].includes(error.status)) return this.onRefused(error);
      this.#showState("waiting", error instanceof Refused ? `Not now: ${error.message}` : "No answer from the gateway; what you see is old");
    }
    // A page that nobody looks at asks no more than now and then.
    this.#timer = setTimeout(() => void this.#turn(), document.hidden ? ASK_EVERY_MS * 15 : ASK_EVERY_MS);
  }

  #showState(state, text) {
    document.body.dataset.state = state;
    setText($("state-text"), text);
    if (state !== "live") setText($("announce"), text);
    else if ($("announce").textContent.startsWith("No")) setText($("announce"), "");
  }

  #showOverview({ startedAt, version, gateways, owners, closes }) {
    const byDoor = new Map();
    for (const gateway of gateways) for (const [door, number] of held(gateway)) byDoor.set(door, (byDoor.get(door) ?? 0) + number);
    const connections = sum([...byDoor.values()], (number) => number);
    const rooms = this.#roomCount ?? sum(gateways, (gateway) => gateway.rooms);
    const outbox = sum(gateways, (gateway) => gateway.outboxBytes);
    const { publishes: [publishes], deliveries: [deliveries], stored: [, slow] } = this.#samples.now;
    setText($("now-connections"), count(connections));
    setText($("now-doors"), [...byDoor].filter(([, number]) => number).map(([door, number]) => `${count(number)} ${DOORS[door] ?? door}`).join(", ") || "none");
    setText($("now-rooms"), count(rooms));
    setText($("now-publishes"), perSecond(publishes));
    setText($("now-deliveries"), perSecond(deliveries));
    setText($("now-outbox"), bytes(outbox));
    const people = connections ? `${many(connections, "connection is", "connections are")} here, in ${many(rooms, "room", "rooms")}.` : "Nobody is connected.";
    setText($("summary"), people);
    const speed = slow === undefined ? "" : ` Of what was published in the last seconds, 99 of 100 were stored within ${milliseconds(slow)}.`;
    setText($("since"), `Up for ${ago(startedAt)}, since ${moment.format(startedAt)}; version ${version}.${speed}`);
    for (const [name, plot] of Object.entries(this.#plots)) plot.draw(this.#samples.list.map((sample) => sample[name]));

    this.#rows.closes.show([...closes].sort((a, b) => b.count - a.count), closeKey);
    $("closes-empty").hidden = closes.length > 0;
    this.#rows.gateways.show(gateways, ({ id }) => id);
    setText($("cluster-note"), `${many(gateways.length, "gateway", "gateways")}, ${many(owners.length, "partition", "partitions")} in use`);
    const homes = new Set(owners.map(({ fanout }) => fanout).filter(Boolean));
    const who = homes.size ? `shared by ${many(homes.size, "process", "processes")}` : "as this gateway knows them";
    setText($("owners-note"), `Every room belongs to one of 16 partitions, and one process at a time puts the messages of a partition in order: ${who}.`);
    this.#rows.owners.show([...owners].sort((a, b) => a.partition - b.partition), ({ partition }) => partition);
  }

  #showRooms(page) {
    const { rooms, count: all, missing = [] } = page;
    this.#rows.rooms.show(rooms, ({ room }) => room);
    const found = $("rooms-search").value ? `${many(all, "room is", "rooms are")} called something like that` : `${many(all, "room", "rooms")} with members`;
    setText($("rooms-note"), found + (missing.length ? `; ${many(missing.length, "partition", "partitions")} did not answer, so some may be missing` : ""));
    $("rooms-empty").hidden = rooms.length > 0;
    setText($("rooms-empty"), $("rooms-search").value ? "No room with members is called anything like that." : "No room has members.");
    this.#pages.rooms.show(page, rooms.length);
  }

  #roomRow({ room }) {
    const open = make("button", { type: "button", class: "link" }, room);
    open.addEventListener("click", () => this.openRoom(room));
    return rowOf(open, ["number", "number", "number"], ({ members, head, rate }) => [count(members), head ? `#${count(head)}` : "none", perSecond(rate)]);
  }

  #showConnections(page) {
    const { gateway, connections, count: all, missing = [] } = page;
    this.#here = gateway;
    this.#rows.connections.show(connections, ({ id }) => id);
    setText($("connections-note"), many(all, "connection", "connections") + (missing.length ? `; ${many(missing.length, "gateway", "gateways")} did not answer` : ""));
    $("connections-empty").hidden = connections.length > 0;
    setText($("connections-empty"), $("connections-user").value ? "This user is not connected." : "Nobody is connected.");
    this.#pages.connections.show(page, connections.length);
  }

  #connectionRow({ user }) {
    const row = rowOf(user, ["", "number", "number", "", "", "code", "actions"], ({ door, rooms, outboxBytes, since, gateway = this.#here, client }) => [
      DOORS[door] ?? door, count(rooms), bytes(outboxBytes), ago(since), short(gateway), client ?? "",
    ]);
    const button = make("button", { type: "button", class: "quiet" }, "Disconnect", make("span", { class: "sr" }, ` ${user}`));
    button.addEventListener("click", () => this.disconnect(user));
    row.cells.at(-1).append(button);
    return row;
  }

  async disconnect(user) {
    if (!(await isSure(`Disconnect ${user}?`, "All connections of this user end, on every gateway. They may come back with the same token.", "Disconnect"))) return;
    await this.#act(() => this.api.disconnect(user), `${user} was disconnected.`);
  }

  async revoke(what) {
    const [name] = Object.values(what);
    const text = what.sub ? "All tokens that were made for this user until now open nothing any more." : "This token opens nothing any more.";
    if (!(await isSure(`Revoke ${name}?`, `${text} This can't be undone.`, "Revoke"))) return false;
    return this.#act(() => this.api.revoke(what), `${name} was revoked.`);
  }

  async erase() {
    const { name } = this.#room;
    if (!(await isSure(`Delete the history of ${name}?`, "All that is stored there is gone for good; its members are told, and stay.", "Delete"))) return;
    await this.#act(() => this.api.erase(name), `The history of ${name} was deleted.`);
    if (this.#room?.name === name) this.openRoom(name);
  }

  /** Does it, and says what came of it. */
  async #act(run, done) {
    try {
      await run();
      setText($("announce"), done);
      this.again();
      return true;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return this.onRefused(error), false;
      await tell("That did not work", error.message);
      return false;
    }
  }

  // ------------------------------------------------------------------------------------------------ room

  openRoom(name) {
    this.closeRoom();
    this.#room = { name, messages: [], timer: undefined };
    setText($("room-title"), name);
    setText($("room-note"), "");
    setText($("room-people"), "");
    setText($("room-problem"), "");
    this.#rows.messages.show([], () => "");
    $("room-empty").hidden = true;
    $("room").hidden = false;
    $("room-title").focus();
    void this.#readRoom(this.#room);
  }

  closeRoom() {
    clearTimeout(this.#room?.timer);
    this.#room = null;
    $("room").hidden = true;
  }

  async #readRoom(room) {
    const isCurrent = () => this.#room === room;
    try {
      const [page, present] = await Promise.all([this.api.messages(room.name, room.messages.at(-1)?.offset), this.api.presence(room.name).catch(refusedToNull)]);
      if (!isCurrent()) return;
      // Another life of the room: what is shown belongs to the one before.
      const isAnew = room.epoch !== undefined && room.epoch !== page.epoch;
      room.epoch = page.epoch;
      room.messages = isAnew ? [] : [...room.messages, ...page.messages].slice(-MESSAGES_MAX);
      if (isAnew) return void this.#readRoom(room);
      this.#rows.messages.show([...room.messages].reverse(), ({ id }) => id);
      $("room-empty").hidden = room.messages.length > 0;
      setText($("room-note"), room.messages.length ? `newest is #${count(room.messages.at(-1).offset)}` : "");
      setText($("room-people"), present ? peopleOf(present) : "");
      setText($("room-problem"), "");
    } catch (error) {
      if (!isCurrent()) return;
      const isClosed = error instanceof Refused && error.status === 403;
      setText($("room-problem"), isClosed ? "To show what is said here, the token needs the grant history." : `Could not be read: ${error.message}`);
      if (isClosed) return;
    }
    room.timer = setTimeout(() => void this.#readRoom(room), ROOM_EVERY_MS);
  }
}

function refusedToNull(error) {
  if (error instanceof Refused) return null;
  throw error;
}

function peopleOf({ count: all, members }) {
  const names = members.slice(0, 12).map(({ userId }) => userId).join(", ");
  return all ? `${count(all)} here: ${names}${all > 12 ? ", …" : ""}` : "Nobody is here.";
}

function messageRow({ offset, sender, ts, payload }) {
  const time = make("time", { datetime: new Date(ts).toISOString(), title: moment.format(ts) }, clock.format(ts));
  const text = typeof payload === "string" ? payload : typeof payload?.text === "string" ? payload.text : JSON.stringify(payload);
  const node = make("li", {}, make("span", { class: "offset dim" }, `#${offset}`), make("b", {}, sender), time, make("p", { dir: "auto" }, text));
  return { node, fill: () => {} };
}

/** Ids are long, and their beginnings tell them apart. */
function short(id) {
  return id.slice(0, 8);
}

function isSure(title, text, yes, isQuestion = true) {
  setText($("sure-title"), title);
  setText($("sure-text"), text);
  setText($("sure-yes"), yes);
  $("sure-no").hidden = !isQuestion;
  $("sure").returnValue = "no";
  $("sure").showModal();
  return new Promise((resolve) => $("sure").addEventListener("close", () => resolve($("sure").returnValue === "yes"), { once: true }));
}

function tell(title, text) {
  return isSure(title, text, "All right", false);
}

// -------------------------------------------------------------------------------------------------- start

const stored = {
  token: () => sessionStorage.getItem("carillon.admin.token"),
  saveToken: (token) => (token ? sessionStorage.setItem("carillon.admin.token", token) : sessionStorage.removeItem("carillon.admin.token")),
};
let desk = null;

/** `#token=<JWT>`: a fragment never reaches a server or its logs. It is taken out of the address at once. */
function onAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    stored.saveToken(token);
    history.replaceState(null, "", location.pathname);
  }
  if (token || !desk) enter();
}

function enter() {
  desk?.end();
  desk = null;
  const token = stored.token();
  if (!token) return askForToken("");
  document.body.dataset.view = "desk";
  $("welcome").hidden = true;
  $("desk").hidden = false;
  desk ??= new Desk(new Api(token), ({ status }) => {
    const why = status === 401 ? "This token isn’t valid any more, or was revoked." : "This token has no grant admin.";
    leave(why);
  });
  desk.start();
}

function leave(why) {
  desk?.end();
  desk = null;
  stored.saveToken(null);
  askForToken(why);
  $("token-input").focus();
}

function askForToken(why) {
  document.body.dataset.view = "welcome";
  delete document.body.dataset.state;
  $("desk").hidden = true;
  $("welcome").hidden = false;
  setText($("token-problem"), why);
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const pasted = $("token-input").value.trim();
  $("token-input").value = "";
  // A whole link is welcome as well.
  stored.saveToken(/[#&?]token=([^&\s]+)/.exec(pasted)?.[1] ?? pasted);
  enter();
  $("rooms-title").focus({ preventScroll: true });
});
$("sign-out").addEventListener("click", () => leave(""));
for (const [id, list] of [["rooms-search", "rooms"], ["rooms-sort", "rooms"], ["connections-user", "connections"]]) {
  $(id).addEventListener("input", () => desk?.find(list));
}
$("room-close").addEventListener("click", () => {
  desk.closeRoom();
  $("rooms-title").focus();
});
$("room-erase").addEventListener("click", () => desk.erase());
$("revoke-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await desk.revoke({ [$("revoke-what").value]: $("revoke-value").value.trim() })) $("revoke-value").value = "";
});
document.addEventListener("visibilitychange", () => !document.hidden && desk?.again());
addEventListener("hashchange", onAddress);

onAddress();
