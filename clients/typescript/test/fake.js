// A server that says what a test makes it say, and a clock that a test moves. Nothing here waits.

import { readdirSync } from "node:fs";
import { Carillon } from "../dist/esm/index.js";

// What is loaded when it is needed is there already: a test moves time, and could not wait for a file.
const dist = new URL("../dist/esm/", import.meta.url);
for (const name of readdirSync(dist)) if (/^(gap|look)-.*\.js$/.test(name)) await import(new URL(name, dist));

export class FakeClock {
  time = 1_000_000_000_000;
  chance = 0.5;
  #timers = new Map();
  #next = 1;

  now = () => this.time;
  random = () => this.chance;
  setTimeout = (run, ms) => {
    this.#timers.set(this.#next, { run, at: this.time + Math.max(0, ms) });
    return this.#next++;
  };
  clearTimeout = (timer) => void this.#timers.delete(timer);

  /** Lets `ms` pass; what falls due runs in order, each followed by what it promised. */
  async pass(ms) {
    const end = this.time + ms;
    for (;;) {
      await settled();
      const [due] = [...this.#timers].filter(([, { at }]) => at <= end).sort(([a, x], [b, y]) => x.at - y.at || a - b);
      if (!due) break;
      this.#timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].run();
    }
    this.time = end;
  }

  /** As when a machine sleeps: time is gone, and no timer ran. */
  sleep(ms) {
    this.time += ms;
  }
}

/** All that was promised and can be kept now is kept. */
export async function settled() {
  for (let n = 0; n < 20; n += 1) await null;
  await new Promise(setImmediate);
}

/** One end of a socket; the test holds the other. */
export class FakeSocket {
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;
  sent = [];
  isClosed = false;

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.isClosed = true;
  }

  /** The server says these frames. */
  says(...frames) {
    for (const frame of frames) this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }

  closes(code, reason = "") {
    this.onclose?.({ code, reason });
  }

  of(type) {
    return this.sent.filter((frame) => frame.type === type);
  }

  last(type) {
    return this.of(type).at(-1);
  }
}

export const CONNECTED = {
  type: "connected",
  userId: "ada",
  clientId: "c",
  connectionId: "1",
  limits: { frameBytes: 65_536, rooms: 256, framesPerSecond: 50 },
  personal: { room: "user:ada", offset: 0, epoch: "" },
};

/** A client with its clock, and all the sockets that it opened. */
export class World {
  sockets = [];
  states = [];
  clock = new FakeClock();

  constructor(options = {}) {
    const { sockets } = this;
    class Socket extends FakeSocket {
      constructor(...given) {
        super(...given);
        sockets.push(this);
      }
    }
    this.carillon = new Carillon({ url: "https://live.example", token: "t0", clientId: "c", WebSocket: Socket, clock: this.clock, fallback: false, ...options });
    this.carillon.connection.on("change", (state) => this.states.push(state));
  }

  get socket() {
    return this.sockets.at(-1);
  }

  get connection() {
    return this.carillon.connection;
  }

  /** Connects, for the first time or when the next attempt is due. */
  async connected(frame = {}) {
    this.carillon.connect();
    await settled();
    this.socket.says({ ...CONNECTED, ...frame });
    await settled();
    return this.socket;
  }

  /** The connection breaks, and is there again at once. */
  async broken(code = 1006) {
    this.socket.closes(code);
    await settled();
    return this.connected();
  }

  /** A room that is joined and live, with all that it tells written down. */
  async room(name = "lobby", { head = 0, epoch = head ? "e1" : "", options } = {}) {
    const room = this.carillon.room(name, options);
    const told = tellingOf(room);
    if (this.connection.state !== "connected") await this.connected();
    await settled();
    this.answer("join", { type: "joined", room: name, offset: head, epoch, recovered: true });
    return { room, told };
  }

  /** Answers the last frame of this type. */
  answer(type, frame) {
    const asked = this.socket.last(type);
    if (!asked) throw new Error(`no ${type} was sent, only ${JSON.stringify(this.socket.sent)}`);
    this.socket.says({ room: asked.room, ...frame, ref: asked.ref });
  }
}

/** What a room tells: offsets and payloads of messages, and its gaps. */
export function tellingOf(room) {
  const told = { messages: [], gaps: [] };
  room.on("message", ({ offset, payload }) => told.messages.push(`${offset} ${payload}`));
  room.on("gap", (gap) => told.gaps.push(gap));
  return told;
}

export const message = (offset, payload = `m${offset}`, more = {}) => ({ type: "message", room: "lobby", payload, sender: "grace", offset, id: `id-${offset}`, ts: 1_000_000_000_000 + offset, ...more });
export const own = (offset, key, more = {}) => ({ type: "own", room: "lobby", offset, id: `id-${offset}`, ts: 1_000_000_000_000 + offset, key, ...more });
export const ack = (offset, more = {}) => ({ type: "ack", offset, id: `id-${offset}`, ts: 1_000_000_000_000 + offset, ...more });

/** A promise's outcome so far. */
export function outcomeOf(promise) {
  const outcome = { state: "waiting" };
  promise.then((value) => Object.assign(outcome, { state: "done", value }), (error) => Object.assign(outcome, { state: "failed", error }));
  return outcome;
}

/** A token with these claims; nobody checks its signature here. */
export const tokenOf = (claims) => `h.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.s`;
