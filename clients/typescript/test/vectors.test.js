// The golden frames of proto/vectors: what the server sends is understood, and what is sent is what they say.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { it } from "node:test";
import { World, outcomeOf, settled } from "./fake.js";

const folder = new URL("../../../proto/vectors/", import.meta.url);
const vectors = (name) => JSON.parse(readFileSync(new URL(name, folder), "utf8"));
/** `codes.json` is read by connection.test.js. These: by fallback.test.js, and by the server alone. */
const BY_OTHERS = ["http.json", "sse.json", "grants.json", "partitions.json", "socketio.json"];

it("every file of vectors is read", () => {
  const read = ["client-frames.json", "codes.json", "names.json", "server-frames.json", ...BY_OTHERS];
  const missing = readdirSync(folder).filter((name) => name.endsWith(".json") && !read.includes(name));
  assert.deepEqual(missing, []);
});

/** What a frame's fields are, with those that are kept as JSON text read. */
function fieldsOf(fields) {
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => (name.endsWith("Text") ? [name.slice(0, -4), JSON.parse(value)] : [name, value])));
}

for (const { name, fields, text } of vectors("server-frames.json").frames) {
  it(`server: ${name}`, async () => {
    const frame = fieldsOf(fields);
    const world = new World();
    const said = readers[frame.type];
    assert.ok(said, `${frame.type} has no reader`);
    await said(world, frame, text);
  });
}

/** Puts a frame's own `ref` in the place of the one that was sent: how numbers and texts come back is for the server to test. */
const answering = (text, sent) => text.replace(/^(\{"type":"\w+")(,"ref":(?:"(?:[^"\\]|\\.)*"|[^,}]+))?/, `$1,"ref":${sent.ref}`);

async function member(world, frame, offset = frame.offset ? frame.offset - 1 : 0) {
  const { room } = await world.room(frame.room, { head: offset, epoch: offset ? "e1" : "" });
  const told = [];
  for (const kind of ["message", "ephemeral", "userJoined", "userLeft"]) room.on(kind, (what) => told.push([kind, what]));
  await settled();
  world.answer("join", { type: "joined", offset, epoch: offset ? "e1" : "", recovered: true, members: [] });
  told.length = 0;
  return { room, told };
}

const readers = {
  async connected(world, { userId, limits, expiresAt }, text) {
    world.carillon.connect();
    await settled();
    world.socket.says(text);
    const { connection } = world;
    assert.deepEqual([connection.state, connection.userId, connection.limits, connection.expiresAt], ["connected", userId, limits, expiresAt]);
  },
  async joined(world, { room: name, offset, epoch, recovered, members, reason, truncated }, text) {
    const room = world.carillon.room(name, recovered ? {} : { since: { offset: 7, epoch: "e1" } });
    const gaps = [];
    room.on("gap", (gap) => gaps.push(gap.reason));
    await world.connected();
    world.socket.says(answering(text, world.socket.last("join")));
    await settled();
    assert.deepEqual(gaps, recovered || reason === "trimmed" ? [] : [reason]);
    if (recovered) assert.deepEqual([room.position, room.state], [{ offset, epoch }, "live"]);
    else assert.equal(world.socket.last(reason === "trimmed" ? "history" : "join").room, name);
    if (members) assert.deepEqual(room.present, { count: members.length, members: JSON.parse(text).members, truncated: Boolean(truncated) });
  },
  async left(world, { room: name, ref }, text) {
    const { room } = await world.room(name);
    if (ref !== undefined) room.leave();
    world.socket.says(ref === undefined ? text : answering(text, world.socket.last("leave")));
    await settled();
    assert.equal(room.state, ref === undefined ? "joining" : "idle");
  },
  async message(world, frame, text) {
    const { room, told } = await member(world, frame);
    world.socket.says(text);
    const { type, epoch, ephemeral, ...message } = { ...frame, ...JSON.parse(text) };
    assert.deepEqual(told, [ephemeral ? ["ephemeral", message] : ["message", { ...message, own: false }]]);
    if (epoch) assert.equal(room.position.epoch, epoch);
  },
  async own(world, frame, text) {
    const { room, told } = await member(world, frame);
    const published = frame.key && outcomeOf(room.publish("mine", { key: frame.key }));
    await settled();
    world.socket.says(text);
    await settled();
    if (!frame.key) return assert.equal(world.socket.last("history").after, frame.offset - 1);
    const { offset, id, ts } = frame;
    assert.deepEqual(published.value, { offset, id, ts });
    assert.deepEqual(told, [["message", { room: frame.room, offset, payload: "mine", sender: "ada", id, ts, own: true, key: frame.key }]]);
  },
  async ack(world, { room, offset, id, ts, duplicate }, text) {
    await world.connected();
    const published = outcomeOf(world.carillon.room(room).publish(1));
    world.socket.says(answering(text, world.socket.last("broadcast")));
    await settled();
    assert.deepEqual(published.value, { offset, id, ts, ...(duplicate && { duplicate }) });
  },
  async history(world, { room, more, epoch }, text) {
    await world.connected();
    const asked = outcomeOf(world.carillon.room(room).history());
    world.socket.says(answering(text, world.socket.last("history")));
    await settled();
    const { messages } = JSON.parse(text);
    assert.deepEqual([asked.value.more, asked.value.epoch], [more, epoch]);
    assert.deepEqual(asked.value.messages.map(({ own, ...message }) => message), messages.map(({ epoch, ...message }) => message));
  },
  async presence(world, { room }, text) {
    await world.connected();
    const asked = outcomeOf(world.carillon.room(room).presence());
    world.socket.says(answering(text, world.socket.last("presence")));
    await settled();
    const { count, members, truncated } = JSON.parse(text);
    assert.deepEqual(asked.value, { count, members, truncated: Boolean(truncated) });
  },
  async userJoined(world, frame, text) {
    const { room, told } = await member(world, frame);
    world.socket.says(text);
    const { user: { id: userId, ...user }, count } = JSON.parse(text);
    assert.deepEqual(told, [[frame.type, { userId, ...user }]]);
    assert.equal(room.present.count, count);
  },
  async pong(world, frame, text) {
    await world.connected();
    await world.clock.pass(25_000);
    world.socket.says(text);
    await world.clock.pass(10_000);
    assert.equal(world.connection.state, "connected");
  },
  async refreshed(world, { expiresAt }, text) {
    await world.connected();
    world.carillon.refresh("t1");
    await settled();
    world.socket.says(answering(text, world.socket.last("refresh")));
    assert.equal(world.connection.expiresAt, expiresAt);
  },
  async error(world, { code, outcome, retryAfterMs }, text) {
    await world.connected();
    const published = outcomeOf(world.carillon.room("lobby").publish(1));
    world.socket.says(answering(text, world.socket.last("broadcast")));
    await settled();
    if (["unavailable", "internal", "rate_limited"].includes(code)) {
      await world.clock.pass(retryAfterMs ?? 500);
      assert.deepEqual([published.state, world.socket.of("broadcast").length], ["waiting", 2]);
    } else assert.deepEqual([published.error.code, published.error.outcome], [code, outcome]);
  },
  async draining(world, { retryAfterMs }, text) {
    await world.connected();
    world.socket.says(text);
    world.socket.closes(4200);
    assert.equal(world.connection.retryAt - world.clock.time, retryAfterMs);
  },
};
readers.userLeft = readers.userJoined;

it("all that the client sends is what the vectors know", async () => {
  const { frames } = vectors("client-frames.json");
  // Of every type: the fields that a frame without error may have.
  const known = {};
  for (const { frame } of frames) if (frame) Object.assign((known[frame.type] ??= { type: 1, ref: 1 }), frame, "payloadText" in frame && { payload: 1 });
  const world = new World();
  const room = world.carillon.room("lobby", { last: 5 });
  room.on("presence", () => {});
  await world.connected({ expiresAt: world.clock.time + 1e9 });
  world.answer("join", { type: "joined", offset: 1, epoch: "e", recovered: true });
  world.socket.says({ type: "own", room: "lobby", offset: 1, id: "i", ts: 1 });
  void room.publish({ text: "hi" }, { key: "k" });
  room.ephemeral(1);
  for (const options of [{}, { before: 3, limit: 2 }, { after: 0 }]) void room.history(options);
  void room.presence();
  world.carillon.refresh("t1");
  await settled();
  world.answer("history", { type: "history", messages: [], more: false, epoch: "e" });
  await world.clock.pass(25_000);
  room.leave();
  const sent = world.socket.sent;
  assert.deepEqual([...new Set(sent.map(({ type }) => type))].sort(), Object.keys(known).sort());
  for (const frame of sent) for (const field of Object.keys(frame)) assert.ok(field in known[frame.type], `${frame.type} has no ${field}`);
});

it("ids that the client makes are legal names", async () => {
  const { clients } = vectors("names.json");
  const isLegal = (text) => /^[A-Za-z0-9_-]{1,64}$/.test(text);
  for (const { text, refused } of clients) assert.equal(isLegal(text), !refused, text);
  const world = new World({ clientId: undefined });
  assert.ok(isLegal(world.connection.clientId), world.connection.clientId);
});
