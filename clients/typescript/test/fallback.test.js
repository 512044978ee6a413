// Where WebSocket is blocked: the same rooms over Server-Sent Events and HTTP, against a server whose answers the test writes.
// The golden blocks and bodies are those of proto/vectors.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { FakeClock, FakeSocket, World, message, outcomeOf, settled, tellingOf, tokenOf } from "./fake.js";

const vectors = (name) => JSON.parse(readFileSync(new URL(`../../../proto/vectors/${name}`, import.meta.url), "utf8"));
const MOVED = vectors("sse.json").blocks.find(({ name }) => name === "moved").text;

/** Answers by a table of paths; a feed stays open, and the test writes into it. */
class FakeServer {
  asked = [];
  feeds = [];
  /** Path → what answers: a body, `[status, body]`, or a promise of one. */
  answers = {};

  fetch = async (url, { method = "GET", body, headers, signal }) => {
    const { pathname, searchParams } = new URL(url);
    const asked = { path: pathname, query: Object.fromEntries(searchParams), rooms: searchParams.getAll("room"), method, headers, body: body && JSON.parse(body) };
    this.asked.push(asked);
    const found = this.answers[`${method} ${pathname}`] ?? this.answers[pathname];
    const isAborted = new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    const answer = await Promise.race([typeof found === "function" ? found(asked) : found, isAborted]);
    if (answer === undefined && pathname === "/events") return this.#feed(asked, signal);
    if (answer === undefined) throw new TypeError("fetch failed");
    const [status, text] = Array.isArray(answer) ? answer : [200, answer];
    return new Response(typeof text === "string" ? text : JSON.stringify(text), { status });
  };

  #feed(asked, signal) {
    let controller;
    const body = new ReadableStream({ start: (given) => void (controller = given) });
    const feed = { ...asked, write: (text) => controller.enqueue(typeof text === "string" ? new TextEncoder().encode(text) : text), end: () => controller.close(), isEnded: false };
    signal.addEventListener("abort", () => {
      feed.isEnded = true;
      try {
        controller.error(new DOMException("aborted", "AbortError"));
      } catch {
        // It had ended.
      }
    });
    this.feeds.push(feed);
    feed.write("retry: 2000\n\n");
    feed.write(MOVED);
    return new Response(body, { status: 200 });
  }

  get feed() {
    return this.feeds.at(-1);
  }

  /** The room's log is this, oldest first. */
  log(room, messages, epoch = "e1") {
    this.answers[`GET /rooms/${room}/messages`] = ({ query: { after, limit } }) => {
      const found = after === undefined ? messages.slice(-limit) : messages.filter(({ offset }) => offset > after).slice(0, limit);
      const more = after === undefined ? found.length < messages.length : found.at(-1)?.offset < messages.at(-1)?.offset;
      return { messages: found.map(({ type, ...message }) => message), more, epoch: messages.length ? epoch : "" };
    };
  }
}

/** No WebSocket ever gets through, unless `world.mayPass`. */
async function blocked({ rooms = { lobby: [] }, options = {}, ...more } = {}) {
  const server = new FakeServer();
  for (const [room, messages] of Object.entries(rooms)) server.log(room, messages);
  const sockets = [];
  const world = new World({
    token: tokenOf({ sub: "ada" }),
    fallback: true,
    fetch: server.fetch,
    WebSocket: class extends FakeSocket {
      constructor(...given) {
        super(...given);
        sockets.push(this);
        if (!world.mayPass) world.clock.setTimeout(() => this.closes(1006), 1);
      }
    },
    ...more,
  });
  world.sockets = sockets;
  const room = world.carillon.room("lobby", options);
  const told = tellingOf(room);
  for (let n = 0; n < 100 && world.connection.state !== "connected"; n += 1) {
    await world.clock.pass(100);
    // The fallback is a file of its own, and loading it takes real time.
    for (let m = 0; m < 1_000 && sockets.length === 2 && world.connection.state === "connecting"; m += 1) await new Promise((resolve) => setTimeout(resolve, 1));
    await calm();
  }
  await calm();
  return { server, world, room, told, sockets };
}

/** Bodies are read in many small steps. */
async function calm() {
  for (let n = 0; n < 30; n += 1) await settled();
}

const block = (frame, id = "c1") => `id: ${id}\nevent: message\ndata: ${JSON.stringify(frame)}\n\n`;

it("after two attempts that no server answered, the third goes another way", async () => {
  const { world, server, sockets, room } = await blocked();
  assert.equal(sockets.length, 3, "the last of them while HTTP reached the server");
  assert.deepEqual([world.connection.transport, world.connection.state, world.connection.userId, room.state], ["sse", "connected", "ada", "live"]);
  assert.equal(server.feed.headers.Authorization, `Bearer ${tokenOf({ sub: "ada" })}`);
  assert.deepEqual(server.feed.rooms, ["user:ada", "lobby"]);
  assert.deepEqual(server.feeds.map(({ isEnded }) => isEnded), [true, false], "the feed before ends once the next has begun");
});

it("once there, an attempt is one over WebSocket and this way at once after it, for as long as neither works", async () => {
  const { world, server } = await blocked();
  server.answers["/events"] = [502, {}];
  const tried = [];
  world.connection.on("change", async (state) => {
    if (state !== "connecting") return;
    const { time } = world.clock;
    await settled();
    tried.push([world.connection.transport, time]);
  });
  server.feed.end();
  await calm();
  for (let n = 0; n < 20 && tried.length < 5; n += 1) {
    await world.clock.pass(Math.max(1, world.connection.retryAt - world.clock.time));
    await calm();
  }
  assert.deepEqual(tried.map(([way]) => way), ["sse", "websocket", "sse", "websocket", "sse"]);
  const waits = tried.slice(1).map(([, time], n) => time - tried[n][1]);
  // A WebSocket takes a millisecond here to be refused; chance is a half, and three attempts failed before.
  assert.deepEqual(waits, [4_000, 1, 8_000, 1]);
});

it("a server that was away is no reason to go another way", async () => {
  const server = new FakeServer();
  const world = new World({ token: tokenOf({ sub: "ada" }), fallback: true, fetch: server.fetch });
  world.carillon.room("lobby").join();
  await settled();
  for (let n = 0; n < 2; n += 1) {
    world.socket.closes(1006); // Nobody listens there.
    await world.clock.pass(world.connection.retryAt - world.clock.time);
  }
  // Now it does: HTTP reaches it, and so does the next WebSocket.
  for (let m = 0; m < 1_000 && world.sockets.length === 2; m += 1) await new Promise((resolve) => setTimeout(resolve, 1)).then(() => world.clock.pass(0));
  assert.equal(world.sockets.length, 3);
  assert.equal(world.connection.state, "connecting");
  world.socket.says({ type: "connected", userId: "ada" });
  await world.clock.pass(0);
  await world.connected();
  assert.deepEqual([world.connection.state, world.connection.transport, world.sockets.length], ["connected", "websocket", 4]);
  assert.ok(server.feed.isEnded);
});

it("a WebSocket that is let through and says nothing is a blocked one", async () => {
  const server = new FakeServer();
  const world = new World({ token: tokenOf({ sub: "ada" }), fallback: true, fetch: server.fetch });
  world.carillon.connect();
  for (let n = 0; n < 200 && world.connection.state !== "connected"; n += 1) {
    await world.clock.pass(500);
    await calm();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  assert.deepEqual([world.connection.state, world.connection.transport, world.sockets.length], ["connected", "sse", 2]);
  assert.ok(world.clock.time - 1_000_000_000_000 <= 11_000, "one attempt tells enough");
  assert.ok(world.sockets.every(({ isClosed }) => isClosed));
  const { feed } = server;
  for (let n = 0; n < 4; n += 1) {
    feed.write(":heartbeat\n\n");
    await world.clock.pass(10_000);
    await calm();
  }
  assert.equal(world.sockets.length, 3);
  assert.ok(world.socket.isClosed, "nor does the next one stay open");
  world.carillon.close();
});

it("a server that is only busy is no reason to go another way", async () => {
  const world = new World({ fallback: true, fetch: () => assert.fail("not asked") });
  world.carillon.connect();
  await settled();
  for (let n = 0; n < 5; n += 1) {
    world.socket.closes(4100, "unavailable");
    await world.clock.pass(world.connection.retryAt - world.clock.time);
  }
  assert.equal(world.connection.transport, "websocket");
});

describe("a message in the feed", () => {
  for (const { name, message: fields, block: text } of vectors("sse.json").messages) {
    it(`is told: ${name}`, async () => {
      const { payloadText, epoch, ...stored } = fields;
      const before = Array.from({ length: Math.max(0, stored.offset - 1) }, (_, n) => message(n + 1, n, { room: stored.room }));
      const { server, world } = await blocked({ rooms: { lobby: [], [encodeURIComponent(stored.room)]: before } });
      const room = world.carillon.room(stored.room);
      const told = [];
      room.on("message", (what) => told.push(what));
      room.on("ephemeral", (what) => told.push(what));
      await calm();
      assert.equal(room.state, "live");
      server.feed.write(stored.offset ? `id: c9\n${text}` : text);
      await calm();
      const payload = JSON.parse(payloadText);
      const { offset, id, ...ephemeral } = stored;
      assert.deepEqual(told, [offset ? { ...stored, payload, own: false } : { ...ephemeral, payload }]);
    });
  }

  it("is the same however its bytes are cut", async () => {
    const { server, told } = await blocked();
    const text = `:heartbeat\r\n\r\n${block(message(1, "Grüße 🔔"))}${block(message(2)).replaceAll("\n", "\r\n")}${block(message(3)).replaceAll("\n", "\r")}`;
    for (const byte of new TextEncoder().encode(text)) server.feed.write(new Uint8Array([byte]));
    server.feed.write("\n");
    await calm();
    assert.deepEqual(told.messages, ["1 Grüße 🔔", "2 m2", "3 m3"]);
  });
});

describe("reading", () => {
  it("begins with the newest", async () => {
    const { told } = await blocked({ rooms: { lobby: [message(1), message(2), message(3)] }, options: { last: 2 } });
    assert.deepEqual(told.messages, ["2 m2", "3 m3"]);
  });

  it("fills what was missed from the history, page after page, and joins it to what comes", async () => {
    const log = Array.from({ length: 2_500 }, (_, n) => message(n + 1));
    const { told, server, room } = await blocked({ rooms: { lobby: log }, options: { since: { offset: 10, epoch: "e1" } } });
    await calm();
    server.feed.write(block(message(2_501)) + block(message(2_500)));
    await calm();
    assert.deepEqual([told.messages.length, told.messages[0], told.messages.at(-1), room.state], [2_491, "11 m11", "2501 m2501", "live"]);
    assert.deepEqual(told.gaps, []);
  });

  it("tells of a gap", async () => {
    const { told } = await blocked({ rooms: { lobby: [message(8), message(9)] }, options: { since: { offset: 3, epoch: "e1" } } });
    await calm();
    assert.deepEqual(told.gaps, [{ room: "lobby", reason: "trimmed", after: 3, before: 8, epoch: "e1" }]);
    assert.deepEqual(told.messages, ["8 m8", "9 m9"]);
  });

  it("tells of another life", async () => {
    const { told } = await blocked({ rooms: { lobby: [message(1)] }, options: { since: { offset: 3, epoch: "e0" } } });
    await calm();
    assert.deepEqual(told.gaps.map(({ reason, before }) => [reason, before]), [["epoch", 1]]);
    assert.deepEqual(told.messages, ["1 m1"]);
  });

  it("fills a hole that somebody else of the same name made", async () => {
    const log = [message(1)];
    const { told, server, world } = await blocked({ rooms: { lobby: log } });
    log.push(message(2, "from the app's other connection", { sender: "ada" }), message(3));
    server.feed.write(block(message(3)));
    await calm();
    assert.deepEqual(told.messages, []);
    await world.clock.pass(300);
    await calm();
    assert.deepEqual(told.messages, ["2 from the app's other connection", "3 m3"]);
  });

  it("goes on without a room that may not be joined", async () => {
    const { server, world, room } = await blocked({ rooms: { lobby: [], secret: [] } });
    server.answers["/events"] = ({ rooms }) => (rooms.includes("secret") ? [403, { code: "forbidden" }] : undefined);
    const secret = world.carillon.room("secret");
    secret.join();
    await settled();
    for (let n = 0; n < 3; n += 1) await calm();
    assert.equal(secret.state, "refused");
    await calm();
    assert.equal(room.state, "live");
  });
});

describe("a room that the token does not open", () => {
  const forbidden = [403, { code: "forbidden" }];

  it("any more is left, and the others go on", async () => {
    const { server, world, room, told } = await blocked({ rooms: { lobby: [], other: [] } });
    const other = world.carillon.room("other");
    const seen = tellingOf(other);
    await calm();
    assert.equal(other.state, "live");
    server.answers["/events"] = ({ rooms }) => (rooms.includes("lobby") ? forbidden : undefined);
    world.carillon.refresh(tokenOf({ sub: "ada", jti: "2" }));
    for (let n = 0; n < 5; n += 1) await calm();
    assert.deepEqual([world.connection.state, room.state, other.state], ["connected", "refused", "live"]);
    server.feed.write(block(message(1, "still here", { room: "other" })));
    await calm();
    assert.deepEqual([seen.messages, told.messages], [["1 still here"], []]);
  });

  it("is no reason to ask again and again", async () => {
    const { server, world, room } = await blocked({ rooms: { lobby: [], other: [] } });
    // Refused together, but none of them alone: nothing that a client could do about.
    server.answers["/events"] = ({ rooms }) => (rooms.length > 1 ? forbidden : undefined);
    world.carillon.room("other").join();
    for (let n = 0; n < 10; n += 1) await calm();
    const { length } = server.asked;
    assert.ok(length < 20, `${length} requests`);
    assert.equal(world.connection.state, "waiting");
    assert.notEqual(room.state, "refused");
  });

  it("for its history waits for WebSocket, and is not ended", async () => {
    const { server, world } = await blocked({ rooms: { lobby: [], secret: [] } });
    server.answers["GET /rooms/secret/messages"] = forbidden;
    const secret = world.carillon.room("secret");
    const ends = [];
    secret.on("end", (error) => ends.push(error));
    secret.on("message", () => {});
    await calm();
    assert.deepEqual([secret.state, secret.error?.code, ends], ["joining", "unavailable", []]);
    server.answers["POST /rooms/secret/messages"] = [201, { room: "secret", offset: 1, id: "id-1", ts: 1 }];
    assert.equal((await secret.publish("all the same")).offset, 1);
    for (let n = 0; n < 3; n += 1) {
      server.feed.write(":heartbeat\n\n");
      await world.clock.pass(9_000);
      await calm();
    }
    const count = () => server.asked.filter(({ method, path }) => method === "GET" && path === "/rooms/secret/messages").length;
    assert.equal(count(), 1);
    server.log("secret", [message(1, "all the same", { sender: "ada", room: "secret" })]);
    await world.clock.pass(3_000);
    await calm();
    assert.deepEqual([secret.state, secret.error, count()], ["live", undefined, 2]);
  });
});

describe("publishing", () => {
  for (const { name, frame, body } of vectors("http.json").answers.filter(({ frame }) => frame.type === "ack" && frame.offset)) {
    it(`resolves: ${name}`, async () => {
      const { server, room } = await blocked();
      server.answers["POST /rooms/lobby/messages"] = [frame.duplicate ? 200 : 201, body];
      const published = await room.publish({ text: "hi" }, { key: "k" });
      const { type, room: _, ...place } = frame;
      assert.deepEqual(published, place);
      const asked = server.asked.find(({ method }) => method === "POST");
      assert.deepEqual([asked.body, asked.headers["Carillon-Client"]], [{ payload: { text: "hi" }, key: "k" }, "c"]);
    });
  }

  it("waits for its answer before what the feed says next is told", async () => {
    const { server, room, told } = await blocked();
    let answer;
    server.answers["POST /rooms/lobby/messages"] = () => new Promise((resolve) => (answer = resolve));
    const published = outcomeOf(room.publish("mine"));
    await calm();
    server.feed.write(block(message(2)));
    await calm();
    assert.deepEqual(told.messages, []);
    answer([201, { room: "lobby", offset: 1, id: "id-1", ts: 1 }]);
    await calm();
    assert.deepEqual(told.messages, ["1 mine", "2 m2"]);
    assert.equal(published.value.offset, 1);
  });

  it("waits for nothing that may be lost", async () => {
    const { server, room } = await blocked();
    let offset = 0;
    server.answers["POST /rooms/lobby/messages"] = ({ body }) => (body.ephemeral ? new Promise(() => {}) : [201, { room: "lobby", offset: ++offset, id: `id-${offset}`, ts: 1 }]);
    for (let n = 0; n < 3; n += 1) room.ephemeral("typing");
    assert.equal((await room.publish("said")).offset, 1);
    assert.deepEqual(server.asked.filter(({ method }) => method === "POST").map(({ body }) => body.payload), ["typing", "said"]);
  });

  it("goes one by one, in order", async () => {
    const { server, room } = await blocked();
    let offset = 0;
    const open = [];
    server.answers["POST /rooms/lobby/messages"] = () => new Promise((resolve) => open.push(resolve));
    const places = Promise.all(["a", "b", "c"].map((payload) => room.publish(payload)));
    const posted = () => server.asked.filter(({ method }) => method === "POST").map(({ body }) => body.payload);
    for (const so of [["a"], ["a", "b"], ["a", "b", "c"]]) {
      await calm();
      assert.deepEqual(posted(), so, "the next one is not asked for before the last one is answered");
      open.pop()([201, { room: "lobby", offset: ++offset, id: `id-${offset}`, ts: 1 }]);
    }
    assert.deepEqual((await places).map(({ offset }) => offset), [1, 2, 3]);
  });

  it("that is refused for now is not overtaken by what waits behind it", async () => {
    const { server, room, world } = await blocked();
    const log = [];
    let refusals = 1;
    server.answers["POST /rooms/lobby/messages"] = ({ body: { payload } }) => {
      if (payload === "b" && refusals-- > 0) return [429, { code: "rate_limited", detail: "", retryAfterMs: 40 }];
      return [201, { room: "lobby", offset: log.push(payload), id: `id-${log.length}`, ts: 1 }];
    };
    const published = ["a", "b", "c", "d"].map((payload) => outcomeOf(room.publish(payload)));
    for (let n = 0; n < 5; n += 1) {
      await calm();
      await world.clock.pass(10);
    }
    await calm();
    assert.deepEqual([log, published.map(({ value }) => value?.offset)], [["a", "b", "c", "d"], [1, 2, 3, 4]]);
  });

  it("that is not answered in time ends the connection, says why, and is repeated with its key", async () => {
    const { server, room, world } = await blocked();
    let answer = () => new Promise(() => {});
    server.answers["POST /rooms/lobby/messages"] = () => answer();
    const published = outcomeOf(room.publish("mine", { key: "k" }));
    await calm();
    await world.clock.pass(8_999);
    assert.equal(world.connection.state, "connected");
    await world.clock.pass(1);
    await calm();
    assert.equal(world.connection.state, "waiting");
    assert.match(world.connection.error.message, /no answer within 9 s .*six connections/);
    answer = () => [201, { room: "lobby", offset: 1, id: "id-1", ts: 1 }];
    for (let n = 0; n < 50 && published.state === "waiting"; n += 1) {
      await world.clock.pass(1_000);
      await calm();
    }
    assert.equal(published.value?.offset, 1);
    assert.deepEqual(server.asked.filter(({ method }) => method === "POST").map(({ body }) => body.key), ["k", "k"]);
  });

  it("and reading that are not answered in time: so does a history", async () => {
    const { server, room, world } = await blocked();
    server.answers["GET /rooms/lobby/messages"] = new Promise(() => {});
    void room.history();
    await calm();
    await world.clock.pass(9_000);
    assert.equal(world.connection.state, "waiting");
  });

  it("that no answer came for is repeated with its key", async () => {
    const { server, room, world } = await blocked();
    const published = outcomeOf(room.publish("mine", { key: "k" }));
    await calm();
    assert.equal(world.connection.state, "waiting");
    server.answers["POST /rooms/lobby/messages"] = [200, { room: "lobby", offset: 1, id: "id-1", ts: 1, duplicate: true }];
    server.log("lobby", [message(1, "mine", { sender: "ada", id: "id-1" })]);
    for (let n = 0; n < 50 && published.state === "waiting"; n += 1) {
      await world.clock.pass(1_000);
      await calm();
    }
    assert.equal(published.value?.offset, 1);
    assert.deepEqual(server.asked.filter(({ method }) => method === "POST").map(({ body }) => body.key), ["k", "k"]);
  });

  it("that no answer came for is known by its key in the history, however long ago it was", async () => {
    const { server, room, world, told } = await blocked();
    const published = outcomeOf(room.publish("mine", { key: "k" }));
    await calm();
    world.clock.sleep(3_600_000);
    // Another app instance of the same user said the same meanwhile: its key is not shown to this one.
    server.log("lobby", [message(1, "mine", { sender: "ada" }), message(2, "mine", { sender: "ada", key: "k" })]);
    for (let n = 0; n < 50 && published.state === "waiting"; n += 1) {
      await world.clock.pass(1_000);
      await calm();
    }
    assert.equal(published.value?.offset, 2);
    assert.equal(server.asked.filter(({ method }) => method === "POST").length, 1);
    assert.deepEqual(told.messages, ["1 mine", "2 mine"]);
    const read = server.asked.filter(({ path }) => path === "/rooms/lobby/messages");
    assert.ok(read.every(({ headers }) => headers["Carillon-Client"] === "c"), "which is how the server knows whose keys to show");
  });

  it("that no answer came for and the history does not show is sent again", async () => {
    const { server, room, world, told } = await blocked();
    const published = outcomeOf(room.publish("mine", { key: "k" }));
    await calm();
    world.clock.sleep(3_600_000);
    server.log("lobby", [message(1, "mine", { sender: "ada" })]);
    server.answers["POST /rooms/lobby/messages"] = [201, { room: "lobby", offset: 2, id: "id-2", ts: 1 }];
    for (let n = 0; n < 50 && published.state === "waiting"; n += 1) {
      await world.clock.pass(1_000);
      await calm();
    }
    assert.equal(published.value?.offset, 2);
    assert.deepEqual(told.messages, ["1 mine", "2 mine"]);
  });

  it("that is refused rejects; that is too fast is sent again", async () => {
    const { server, room, world } = await blocked();
    server.answers["POST /rooms/lobby/messages"] = [403, { code: "forbidden", detail: "no" }];
    await assert.rejects(room.publish(1), { code: "forbidden", message: "no" });
    server.answers["POST /rooms/lobby/messages"] = [429, { code: "rate_limited", detail: "", retryAfterMs: 40 }];
    const published = outcomeOf(room.publish(2));
    await calm();
    server.answers["POST /rooms/lobby/messages"] = [201, { room: "lobby", offset: 1, id: "id-1", ts: 1 }];
    await world.clock.pass(40);
    await calm();
    assert.equal(published.value?.offset, 1);
  });
});

it("history and presence are the bodies of HTTP", async () => {
  const { server, room } = await blocked();
  const { answers } = vectors("http.json");
  const body = (name) => answers.find((answer) => answer.name === name).body;
  server.answers["GET /rooms/lobby/messages"] = body("history");
  const history = await room.history();
  assert.deepEqual([history.more, history.epoch, history.messages.map(({ offset, payload }) => [offset, payload])], [true, "k3x9.7", [[2, [1]]]]);
  server.answers["GET /rooms/lobby/presence"] = body("presence");
  assert.deepEqual(await room.presence(), { count: 700, members: [{ userId: "grace", info: { name: "Grace" }, connections: 1 }], truncated: true });
});

describe("the end of a feed", () => {
  it("with a `retry` is a drain: it comes back when it was told", async () => {
    const { server, world } = await blocked();
    server.feed.write("retry: 417\n\n");
    server.feed.end();
    await calm();
    assert.equal(world.connection.retryAt - world.clock.time, 417);
    await world.clock.pass(417);
    await calm();
    await world.clock.pass(1);
    await calm();
    assert.deepEqual([world.connection.state, world.connection.transport, server.feeds.length], ["connected", "sse", 4]);
  });

  it("without one is a broken connection", async () => {
    const { server, world } = await blocked();
    server.feed.write(":heartbeat\n\n");
    server.feed.end();
    await calm();
    assert.equal(world.connection.state, "waiting");
    assert.equal(world.connection.error.closeCode, 1006);
  });

  it("that says nothing any more is found out", async () => {
    const { world, server } = await blocked();
    const { feed } = server;
    await world.clock.pass(74_000);
    assert.ok(!feed.isEnded);
    await world.clock.pass(25_000 + 10_000);
    assert.ok(feed.isEnded);
    await calm();
    await world.clock.pass(1_000);
    await calm();
    assert.notEqual(server.feed, feed, "and another one is asked for");
  });
});

it("a token that is refused stops; one that is over is asked for again", async () => {
  for (const [exp, state] of [[undefined, "stopped"], [2_000_000_000, "stopped"], [999_999_000, "waiting"]]) {
    const server = new FakeServer();
    server.answers["/events"] = [401, { code: "unauthorized" }];
    const clock = new FakeClock();
    const world = new World({ token: () => tokenOf({ sub: "ada", exp }), fallback: true, fetch: server.fetch, clock, WebSocket: class extends FakeSocket {
      constructor(...given) {
        super(...given);
        clock.setTimeout(() => this.closes(1006), 1);
      }
    } });
    const seen = [];
    world.connection.on("change", (state) => seen.push([state, world.connection.error?.closeCode]));
    world.carillon.connect();
    for (let n = 0; n < 20 && !seen.some(([, code]) => code > 4_000); n += 1) {
      await clock.pass(500);
      await calm();
    }
    assert.equal(seen.find(([, code]) => code > 4_000)?.[0], state, String(exp));
    world.carillon.close();
  }
});

it("WebSocket is looked for again, and taken when it is there", async () => {
  const { world, sockets, told, server, room } = await blocked({ rooms: { lobby: [message(1)] } });
  const alive = async (ms) => {
    for (let n = 0; n < ms; n += 10_000) {
      server.feed.write(":heartbeat\n\n");
      await world.clock.pass(10_000);
      await calm();
    }
  };
  await alive(30_000);
  assert.equal(sockets.length, 4);
  assert.equal(world.connection.state, "connected", "a probe that fails disturbs nobody");
  world.mayPass = true;
  await alive(60_000);
  assert.equal(sockets.length, 5);
  sockets[4].says({ type: "connected", userId: "ada" });
  await world.clock.pass(0);
  assert.ok(sockets[4].isClosed);
  await world.connected();
  assert.deepEqual([sockets.length, world.connection.transport], [6, "websocket"]);
  assert.equal(world.socket.last("join").since, 1);
  world.answer("join", { type: "joined", offset: 2, epoch: "e1", recovered: true });
  world.socket.says(message(2));
  assert.deepEqual([told.messages, told.gaps, room.state], [["2 m2"], [], "live"]);
  assert.ok(server.feed.isEnded);
});

describe("a tab that has no place for a feed", () => {
  /** Web Locks of a browser in which other tabs hold the first four. */
  function browser(test, { isFull = true } = {}) {
    const held = new Set();
    const locks = {
      isFull,
      request: async (name, _, hold) => {
        if (locks.isFull || held.has(name)) return hold(null);
        held.add(name);
        await hold({ name });
        held.delete(name);
      },
    };
    Object.defineProperty(globalThis, "navigator", { value: { locks }, configurable: true, writable: true });
    globalThis.document = new EventTarget();
    test.after(() => {
      delete globalThis.navigator;
      delete globalThis.document;
    });
    return { locks, held };
  }

  it("reads its rooms now and then, publishes, and holds no connection", async (test) => {
    browser(test);
    const { server, world, room, told } = await blocked({ rooms: { lobby: [message(1)] } });
    assert.deepEqual([world.connection.transport, world.connection.state, room.state], ["sse", "connected", "live"]);
    assert.ok(server.feeds.every(({ isEnded }) => isEnded));
    server.log("lobby", [message(1), message(2), message(3)]);
    await world.clock.pass(2_000);
    await calm();
    assert.deepEqual(told.messages, ["2 m2", "3 m3"]);
    server.answers["POST /rooms/lobby/messages"] = [201, { room: "lobby", offset: 4, id: "id-4", ts: 1 }];
    assert.equal((await room.publish("mine", { key: "k" })).offset, 4);
    server.log("lobby", [message(1), message(2), message(3), message(4, "mine", { sender: "ada", key: "k" }), message(5)]);
    for (let n = 0; n < 60; n += 1) {
      await world.clock.pass(2_000);
      await calm();
    }
    assert.deepEqual([told.messages, world.connection.state], [["2 m2", "3 m3", "4 mine", "5 m5"], "connected"]);
    assert.ok(server.feeds.every(({ isEnded }) => isEnded));
  });

  it("joins further rooms, and reads them, too", async (test) => {
    browser(test);
    const { server, world } = await blocked({ rooms: { lobby: [], other: [] } });
    const other = world.carillon.room("other");
    const seen = tellingOf(other);
    for (let n = 0; n < 3; n += 1) await calm();
    assert.equal(other.state, "live");
    server.log("other", [message(1, "m1", { room: "other" })]);
    await world.clock.pass(2_000);
    await calm();
    assert.deepEqual([seen.messages, other.position], [["1 m1"], { offset: 1, epoch: "e1" }]);
    assert.ok(server.feeds.every(({ isEnded }) => isEnded));
  });

  it("finds out that a room began another life", async (test) => {
    browser(test);
    const { server, world, told } = await blocked({ rooms: { lobby: [message(1), message(2)] } });
    server.log("lobby", [message(1, "anew")], "e2");
    for (let n = 0; n < 20 && !told.messages.length; n += 1) {
      await world.clock.pass(1_000);
      await calm();
    }
    assert.deepEqual([told.gaps.map(({ reason }) => reason), told.messages], [["epoch"], ["1 anew"]]);
  });

  it("asks more slowly when the server says so", async (test) => {
    browser(test);
    const { server, world } = await blocked();
    server.answers["GET /rooms/lobby/messages"] = [429, { code: "rate_limited", detail: "", retryAfterMs: 5_000 }];
    await world.clock.pass(2_000);
    await calm();
    const { length } = server.asked;
    await world.clock.pass(4_000);
    await calm();
    assert.deepEqual([world.connection.state, server.asked.length], ["connected", length]);
    await world.clock.pass(1_000);
    await calm();
    assert.equal(server.asked.length, length + 1);
  });

  it("takes one that comes free, and gives it back in the end", async (test) => {
    const { locks, held } = browser(test);
    const { server, world, told } = await blocked();
    locks.isFull = false;
    await world.clock.pass(2_000);
    await calm();
    assert.deepEqual([held.size, server.feed.isEnded], [1, false]);
    server.feed.write(block(message(1)));
    await calm();
    assert.deepEqual(told.messages, ["1 m1"]);
    world.carillon.close();
    await calm();
    assert.equal(held.size, 0);
  });
});

it("four tabs of a browser hold feeds, and a fifth does not", async (test) => {
  const held = new Set();
  const request = async (name, _, hold) => {
    if (held.has(name)) return hold(null);
    held.add(name);
    await hold({ name });
    held.delete(name);
  };
  Object.defineProperty(globalThis, "navigator", { value: { locks: { request } }, configurable: true, writable: true });
  globalThis.document = new EventTarget();
  test.after(() => {
    delete globalThis.navigator;
    delete globalThis.document;
  });
  const tabs = [];
  for (let n = 0; n < 5; n += 1) tabs.push(await blocked());
  assert.deepEqual(tabs.map(({ server }) => server.feed.isEnded), [false, false, false, false, true]);
  for (const { world } of tabs) world.carillon.close();
});

it("who comes and goes is asked for", async () => {
  const { server, world, room } = await blocked();
  const members = [{ userId: "ada", connections: 1 }];
  server.answers["GET /rooms/lobby/presence"] = () => ({ count: members.length, members });
  const came = [];
  room.on("userJoined", ({ userId }) => came.push(userId));
  room.on("userLeft", ({ userId }) => came.push(`-${userId}`));
  await calm();
  assert.equal(room.present.count, 1);
  members.push({ userId: "grace", connections: 1 });
  await world.clock.pass(10_000);
  await calm();
  members.shift();
  await world.clock.pass(10_000);
  await calm();
  assert.deepEqual(came, ["grace", "-ada"]);
});

it("who is there is asked for no more once the room is left, also where the answer is on its way", async () => {
  const { server, world, room } = await blocked();
  let answer;
  const count = () => server.asked.filter(({ path }) => path === "/rooms/lobby/presence").length;
  server.answers["GET /rooms/lobby/presence"] = { count: 1, members: [{ userId: "ada", connections: 1 }] };
  room.on("presence", () => {});
  await calm();
  assert.equal(room.present.count, 1);
  server.answers["GET /rooms/lobby/presence"] = () => new Promise((resolve) => (answer = resolve));
  await world.clock.pass(10_000);
  await calm();
  room.leave();
  const before = count();
  answer({ count: 0, members: [] });
  await calm();
  for (let n = 0; n < 10; n += 1) {
    server.feed.write(":heartbeat\n\n");
    await world.clock.pass(10_000);
    await calm();
  }
  assert.deepEqual([world.connection.state, count()], ["connected", before]);
});

it("who may not know who is there goes on with the messages", async () => {
  const { server, world, room, told } = await blocked();
  server.answers["GET /rooms/lobby/presence"] = { count: 300, members: [{ userId: "ada", connections: 1 }], truncated: true };
  room.on("presence", () => {});
  await calm();
  assert.equal(room.present.count, 300);
  const { feed } = server;
  server.answers["GET /rooms/lobby/presence"] = [403, { code: "forbidden" }];
  await world.clock.pass(10_000);
  await calm();
  feed.write(block(message(1)));
  await calm();
  assert.deepEqual([world.connection.state, told.messages, feed.isEnded], ["connected", ["1 m1"], false]);
});
