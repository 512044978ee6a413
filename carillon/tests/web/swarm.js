// Many members by the doors of others: `socket.io-client` and `EventSource` as they come from npm. Each checks that what it is shown
// follows on what it was shown before, however often it has to come back. Reads `{"url","secret","prefix","rooms","events","socketio"}`
// from its arguments; prints `seated` when all are in; at the end of its input it waits until all have the head of their room, and
// prints what it saw as JSON.

import { createHmac } from "node:crypto";
import { EventSource } from "eventsource";
import { io } from "socket.io-client";

const { url, secret, prefix, rooms, events, socketio } = JSON.parse(process.argv[2]);
const SETTLE_MS = 60_000;
const OPENING = 50;

const began = Date.now();
const saw = { connects: [], closes: [], delivered: 0, faults: 0, told: [], unrecovered: 0 };
const members = [];

function token(sub) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const grants = [{ rooms: ["*"], can: ["join", "publish", "history", "presence"] }];
  const body = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub, iat: now, exp: now + 86_400, grants })}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("base64url")}`;
}

function count(list) {
  const second = Math.floor((Date.now() - began) / 1000);
  while (list.length <= second) list.push(0);
  list[second] += 1;
}

function fault(what) {
  saw.faults += 1;
  if (saw.told.length < 20) saw.told.push(what);
}

class Member {
  constructor(name, room) {
    Object.assign(this, { name, room, last: undefined, isSeated: false });
    members.push(this);
  }

  /** Where its room stood when it came for the first time. */
  seat(head) {
    this.last ??= head;
    this.isSeated = true;
  }

  message({ offset }) {
    saw.delivered += 1;
    if (this.last !== undefined && offset !== this.last + 1) fault(`${this.name}: ${offset} after ${this.last} in ${this.room}`);
    this.last = offset;
  }
}

function listen(number) {
  const member = new Member(`events${number}`, `${prefix}${number % rooms}`);
  const authorization = `Bearer ${token(member.name)}`;
  const source = new EventSource(`${url}/events?room=${member.room}`, {
    fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, authorization } }),
  });
  source.onopen = () => {
    count(saw.connects);
    member.isSeated = true;
  };
  source.onerror = () => {
    count(saw.closes);
    if (source.readyState === EventSource.CLOSED) fault(`${member.name}: stopped for good`);
  };
  source.onmessage = ({ data }) => member.message(JSON.parse(data));
  source.addEventListener("gap", ({ data }) => fault(`${member.name}: ${data}`));
}

function connect(number) {
  const member = new Member(`socketio${number}`, `${prefix}${number % rooms}`);
  const socket = io(url, { auth: { token: token(member.name) }, forceNew: true, transports: ["websocket"] });
  socket.on("connect", async () => {
    count(saw.connects);
    if (member.isSeated && socket.recovered) return;
    if (member.isSeated) saw.unrecovered += 1;
    const { offset, error } = await socket.emitWithAck("join", member.room);
    if (error) return fault(`${member.name}: ${error.code}`);
    member.seat(offset);
  });
  socket.on("disconnect", () => count(saw.closes));
  socket.on("message", (message) => member.message(message));
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const waiting = () => members.filter(({ isSeated }) => !isSeated).length;

async function seat(open, total) {
  for (let number = 0; number < total; number++) {
    open(number);
    while (waiting() >= OPENING) await pause(5);
  }
}

async function head(room) {
  const headers = { authorization: `Bearer ${token("reader")}` };
  const answer = await fetch(`${url}/rooms/${room}/messages?limit=1`, { headers });
  const { messages } = await answer.json();
  return messages.at(-1)?.offset ?? 0;
}

await seat(listen, events);
await seat(connect, socketio);
while (waiting() > 0) await pause(20);
console.log("seated");

process.stdin.resume();
await new Promise((done) => process.stdin.on("end", done));
const heads = new Map();
for (let room = 0; room < rooms; room++) heads.set(`${prefix}${room}`, await head(`${prefix}${room}`));
const behind = () => members.filter(({ last, room }) => (last ?? 0) !== heads.get(room));
const end = Date.now() + SETTLE_MS;
while (behind().length > 0 && Date.now() < end) await pause(50);
for (const { name, room, last } of behind()) fault(`${name}: ends at ${last} of ${heads.get(room)} in ${room}`);
console.log(JSON.stringify({ members: members.length, ...saw }));
process.exit(saw.faults > 0 ? 1 : 0);
