// The client that every WebSocket tutorial ends with (`ws`, `?token=`, join, leave, broadcast), unchanged, against a
// really started server; then what such clients get wrong, and how the server answers it.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Client, Server } from "./server.js";

const LIMIT = { timeout: 300_000 };

let server;
let ada;
let grace;

before(async () => {
  server = await Server.start();
  [ada, grace] = ["ada", "grace"].map((sub) => server.token(sub));
});
after(() => server.remove());

async function inRoom(room, ...tokens) {
  const clients = await Promise.all(tokens.map((token) => Client.connect(server, token)));
  for (const client of clients) assert.equal((await client.ask({ type: "join", room })).type, "joined");
  return clients;
}

describe("the tutorial client", LIMIT, () => {
  it("is told who it is", async () => {
    const client = await Client.connect(server, ada, { client: "tab-1" });
    const { type, userId, clientId, connectionId, expiresAt, limits, personal } = client.connected;
    assert.equal(client.frames[0].type, "connected");
    assert.deepEqual({ type, userId, clientId }, { type: "connected", userId: "ada", clientId: "tab-1" });
    assert.ok(connectionId);
    assert.ok(expiresAt > Date.now());
    assert.deepEqual(limits, { frameBytes: 65_536, rooms: 256, framesPerSecond: 50 });
    assert.equal(personal.room, "user:ada");
    assert.equal(client.socket.protocol, "");
    client.close();
  });

  it("hears others, not itself", async () => {
    const [a, g] = await inRoom("chat", ada, grace);
    const sentAt = Date.now();
    a.send({ type: "broadcast", room: "chat", payload: { text: "hello" } });
    const heard = await g.until("message");
    assert.deepEqual(
      { room: heard.room, payload: heard.payload, sender: heard.sender, offset: heard.offset },
      { room: "chat", payload: { text: "hello" }, sender: "ada", offset: 1 },
    );
    assert.match(heard.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    assert.ok(Math.abs(heard.ts - sentAt) < 60_000);
    assert.ok(heard.epoch, "the message with offset 1 names the epoch");

    // Offset 2 comes to ada after offset 1 would have.
    g.send({ type: "broadcast", room: "chat", payload: { text: "hi" } });
    const reply = await a.until("message");
    assert.deepEqual({ offset: reply.offset, sender: reply.sender, epoch: reply.epoch }, { offset: 2, sender: "grace", epoch: undefined });
    assert.equal(a.of("ack").length, 0, "no ack without ref");
    for (const client of [a, g]) client.close();
  });

  it("hears nothing after leaving", async () => {
    const [a, g] = await inRoom("left", ada, grace);
    assert.deepEqual(only(await a.ask({ type: "leave", room: "left" }), "type", "room"), { type: "left", room: "left" });
    assert.equal((await g.ask({ type: "broadcast", room: "left", payload: 1 })).type, "ack");
    // Back in the room, it hears the second message only: the first one was never on its way.
    await a.ask({ type: "join", room: "left" });
    await g.ask({ type: "broadcast", room: "left", payload: 2 });
    assert.equal((await a.until("message")).payload, 2);
    assert.equal((await a.ask({ type: "leave", room: "never" })).code, "not_joined");
    for (const client of [a, g]) client.close();
  });

  it("is acked with the offset", async () => {
    const [a] = await inRoom("acks", ada);
    const first = await a.ask({ type: "broadcast", room: "acks", payload: "one", key: "k1" });
    assert.deepEqual(only(first, "type", "room", "offset", "duplicate"), { type: "ack", room: "acks", offset: 1, duplicate: undefined });
    const again = await a.ask({ type: "broadcast", room: "acks", payload: "one", key: "k1" });
    assert.deepEqual(only(again, "type", "offset", "id", "duplicate"), { type: "ack", offset: 1, id: first.id, duplicate: true });
    a.send({ type: "broadcast", room: "acks", payload: "two", ref: "a string" });
    assert.equal((await a.until(({ ref }) => ref === "a string", "the ack of a string ref")).offset, 2);
    const ephemeral = await a.ask({ type: "broadcast", room: "acks", payload: "gone", ephemeral: true });
    assert.deepEqual(only(ephemeral, "type", "room", "offset", "id"), { type: "ack", room: "acks", offset: undefined, id: undefined });
    a.close();
  });

  it("resumes where it was", async () => {
    const [g] = await inRoom("resume", grace);
    const first = await Client.connect(server, ada, { client: "laptop" });
    const { epoch } = await first.ask({ type: "join", room: "resume" });
    assert.equal(epoch, "", "an empty room has no epoch");
    await g.ask({ type: "broadcast", room: "resume", payload: 1 });
    const seen = await first.until("message");
    await first.ask({ type: "broadcast", room: "resume", payload: "own", key: "mine" });
    first.close();
    for (const payload of [3, 4, 5]) await g.ask({ type: "broadcast", room: "resume", payload });

    const second = await Client.connect(server, ada, { client: "laptop" });
    const joined = await second.ask({ type: "join", room: "resume", since: seen.offset, epoch: seen.epoch });
    assert.deepEqual(only(joined, "offset", "epoch", "recovered"), { offset: 5, epoch: seen.epoch, recovered: true });
    await second.until(({ offset, type }) => type === "message" && offset === 5, "the last missed message");
    const replay = second.frames.slice(second.frames.indexOf(joined) + 1);
    assert.deepEqual(replay.map(({ type, offset }) => [type, offset]), [["own", 2], ["message", 3], ["message", 4], ["message", 5]]);
    assert.deepEqual(only(replay[0], "room", "key", "payload"), { room: "resume", key: "mine", payload: undefined });

    const elsewhere = await Client.connect(server, ada, { client: "laptop" });
    const refused = await elsewhere.ask({ type: "join", room: "resume", since: 1, epoch: "another life" });
    assert.deepEqual(only(refused, "offset", "recovered", "reason"), { offset: 5, recovered: false, reason: "epoch" });
    for (const client of [second, elsewhere, g]) client.close();
  });

  it("loses nothing acked to kill -9", async () => {
    const own = await Server.start();
    try {
      const token = own.token("ada");
      const before = await Client.connect(own, token);
      for (let n = 1; n <= 50; n += 1) assert.equal((await before.ask({ type: "broadcast", room: "kept", payload: n })).offset, n);
      await own.kill();
      assert.equal((await before.closed()).code, 1006);
      await own.start();
      const after = await Client.connect(own, token, { client: "other" });
      assert.equal((await after.ask({ type: "join", room: "kept", since: 0 })).offset, 50);
      await after.until(({ type, offset }) => type === "message" && offset === 50, "message 50");
      assert.deepEqual(after.of("message").map(({ offset, payload }) => [offset, payload]), Array.from({ length: 50 }, (_, n) => [n + 1, n + 1]));
      assert.equal((await after.ask({ type: "broadcast", room: "kept", payload: "on" })).offset, 51);
      after.close();
      assert.equal(await own.stop(), 0, "SIGTERM ends with 0");
    } finally {
      await own.remove();
    }
  });
});

describe("a payload", LIMIT, () => {
  const asWritten = [
    "1.0",
    "-0",
    "1e400",
    "1E+2",
    "1152921504606846976",
    "0.1000000000000000055511151231257827",
    '"\\u00e9"',
    '"é"',
    '"\\ud83d\\ude00\\/"',
    '{"a":1,"a":2}',
    '{ "b" : [ 1 ,\t2 ] , "a" : null }',
    '""',
    "null",
    "false",
    "[]",
  ];

  it("comes out as it went in", async () => {
    const [a, g] = await inRoom("bytes", ada, grace);
    for (const payload of asWritten) a.send(`{"type":"broadcast","room":"bytes","payload":${payload}}`);
    await g.until(({ offset }) => offset === asWritten.length, "the last payload");
    const late = await Client.connect(server, grace);
    await late.ask({ type: "join", room: "bytes", since: 0 });
    await late.until(({ type, offset }) => type === "message" && offset === asWritten.length, "the last replayed payload");
    for (const [how, client] of [["live", g], ["replayed", late]]) {
      const frames = client.of("message");
      assert.equal(frames.length, asWritten.length);
      for (const [index, payload] of asWritten.entries()) {
        const { text } = frames[index];
        assert.ok(text.includes(`"payload":${payload},`) || text.endsWith(`"payload":${payload}}`), `${how}: ${payload} came as ${text}`);
      }
    }
    for (const client of [a, g, late]) client.close();
  });
});

describe("a token", LIMIT, () => {
  it("is taken from three places", async () => {
    const bySubprotocol = new Client(server, "", ["carillon.v1", `carillon.token.${ada}`]);
    assert.equal((await bySubprotocol.until("connected")).userId, "ada");
    assert.equal(bySubprotocol.socket.protocol, "carillon.v1");
    const byHeader = new Client(server, "", [], { headers: { authorization: `Bearer ${ada}` } });
    assert.equal((await byHeader.until("connected")).userId, "ada");
    const byBoth = new Client(server, `?token=${grace}`, [], { headers: { authorization: `Bearer ${ada}` } });
    assert.equal((await byBoth.until("connected")).userId, "ada", "the header comes first");
    for (const client of [bySubprotocol, byHeader, byBoth]) client.close();
  });

  const refused = {
    "that is none": () => [""],
    "that is no JWT": () => ["?token=nonsense"],
    "of another key": () => [`?token=${ada.replace(/[^.]+$/, "A".repeat(43))}`],
    "with other claims": () => [`?token=${withClaims(ada, { sub: "grace" })}`],
    "without a signature": () => [`?token=${unsigned(ada)}`],
    "that is bad, before a good one": () => [`?token=${ada}`, [], { headers: { authorization: "Bearer nonsense" } }],
    "that is bad, as subprotocol": () => ["", ["carillon.v1", "carillon.token.nonsense"]],
  };
  for (const [what, connection] of Object.entries(refused)) {
    it(`${what} closes with 4001`, async () => {
      const client = new Client(server, ...connection());
      assert.deepEqual(await client.closed(), { code: 4001, reason: "unauthorized" });
      assert.deepEqual(client.frames, []);
    });
  }
});

describe("bad input", LIMIT, () => {
  const deep = (levels) => "[".repeat(levels) + "]".repeat(levels);
  // What is sent, the code of the error that answers it, and the ref that it carries.
  const table = [
    ["no JSON", "hello", "bad_request", undefined],
    ["half a frame", '{"type":"ping"', "bad_request", undefined],
    ["an array", "[]", "bad_request", undefined],
    ["null", "null", "bad_request", undefined],
    ["a type nobody knows", { type: "subscribe", room: "a", ref: 7 }, "unknown_type", 7],
    ["a join without room", { type: "join", ref: "r" }, "bad_request", "r"],
    ["a room that is a number", { type: "join", room: 5, ref: 7 }, "bad_request", 7],
    ["an empty room name", { type: "join", room: "", ref: 7 }, "room_invalid", 7],
    ["a room name with a leading space", { type: "join", room: " a", ref: 7 }, "room_invalid", 7],
    ["a room name with a control character", { type: "join", room: "a\u0007b", ref: 7 }, "room_invalid", 7],
    ["a room name of 129 bytes", { type: "join", room: "é".repeat(64) + "a", ref: 7 }, "room_invalid", 7],
    ["a negative offset", { type: "join", room: "a", since: -1, ref: 7 }, "bad_request", 7],
    ["an offset above 2^53", '{"type":"join","room":"a","since":9007199254740993,"ref":7}', "bad_request", 7],
    ["more than can be asked for", { type: "join", room: "a", last: 1001, ref: 7 }, "bad_request", 7],
    ["a broadcast without payload", { type: "broadcast", room: "a", ref: 7 }, "bad_request", 7],
    ["an empty key", { type: "broadcast", room: "a", payload: 1, key: "", ref: 7 }, "bad_request", 7],
    ["a key of 65 bytes", { type: "broadcast", room: "a", payload: 1, key: "k".repeat(65), ref: 7 }, "bad_request", 7],
    ["a payload nested too deep", `{"type":"broadcast","room":"a","payload":${deep(70)},"ref":7}`, "bad_request", undefined],
    ["someone else's personal room", { type: "join", room: "user:grace", ref: 7 }, "forbidden", 7],
    ["a message to someone else's personal room", { type: "broadcast", room: "user:grace", payload: 1, ref: 7 }, "forbidden", 7],
    ["a room that was never joined", { type: "leave", room: "a", ref: 7 }, "not_joined", 7],
  ];

  for (const [what, frame, code, ref] of table) {
    it(`${what} is answered ${code}`, async () => {
      const client = await Client.connect(server, ada);
      client.send(frame);
      const error = await client.until("error");
      assert.equal(error.code, code, error.text);
      if (ref !== undefined) assert.equal(error.ref, ref, error.text);
      assert.ok(error.message);
      assert.equal((await client.ask({ type: "ping" })).type, "pong", "the connection goes on");
      client.close();
    });
  }

  it("binary is answered bad_request", async () => {
    const client = await Client.connect(server, ada);
    client.socket.send(Buffer.from('{"type":"ping"}'), { binary: true });
    assert.equal((await client.until("error")).code, "bad_request");
    assert.equal((await client.ask({ type: "ping" })).type, "pong");
    client.close();
  });

  it("the tenth bad frame closes with 4002", async () => {
    const client = await Client.connect(server, ada);
    for (let n = 0; n < 10; n += 1) client.send("nonsense");
    assert.deepEqual(await client.closed(), { code: 4002, reason: "protocol_error" });
  });

  it("a frame of the limit passes, one byte more closes with 1009", async () => {
    const client = await Client.connect(server, ada);
    const around = '{"type":"broadcast","room":"large","payload":"","ref":1}';
    const frame = (bytes) => around.replace('""', `"${"x".repeat(bytes - around.length)}"`);
    client.send(frame(65_536));
    assert.equal((await client.until("ack")).offset, 1);
    client.send(frame(65_537));
    assert.equal((await client.closed()).code, 1009);
  });

  it("grants bound what may be done", async () => {
    const grants = JSON.stringify([{ rooms: ["news:*"], can: ["join"] }]);
    const reader = await Client.connect(server, server.token("reader", "--grants", grants));
    assert.equal((await reader.ask({ type: "join", room: "news:today" })).type, "joined");
    assert.equal((await reader.ask({ type: "join", room: "chat" })).code, "forbidden");
    assert.equal((await reader.ask({ type: "broadcast", room: "news:today", payload: 1 })).code, "forbidden");
    reader.close();
  });

  it("another site's page is refused with 403", async () => {
    const stranger = new Client(server, `?token=${ada}`, [], { headers: { origin: "https://elsewhere.example" } });
    assert.equal(await stranger.refused, 403);
    const own = new Client(server, `?token=${ada}`, [], { headers: { origin: server.url } });
    await own.until("connected");
    own.close();
  });

  it("harms nobody else", async () => {
    const [good] = await inRoom("calm", grace);
    const bad = await Client.connect(server, ada);
    for (let n = 0; n < 10; n += 1) bad.send("nonsense");
    await bad.closed();
    const [other] = await inRoom("calm", ada);
    await other.ask({ type: "broadcast", room: "calm", payload: "still here" });
    assert.equal((await good.until("message")).payload, "still here");
    for (const client of [good, other]) client.close();
  });
});

function only(frame, ...names) {
  return Object.fromEntries(names.map((name) => [name, frame[name]]));
}

function withClaims(token, change) {
  const [header, claims, signature] = token.split(".");
  const changed = { ...JSON.parse(Buffer.from(claims, "base64url")), ...change };
  return [header, Buffer.from(JSON.stringify(changed)).toString("base64url"), signature].join(".");
}

function unsigned(token) {
  const header = Buffer.from('{"alg":"none","typ":"JWT"}').toString("base64url");
  return `${header}.${token.split(".")[1]}.`;
}
