// The Socket.IO door with the clients that it is for: socket.io-client as npm has it, by polling only, by WebSocket only and
// with the upgrade, running the code of the usual chat tutorial.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { io } from "socket.io-client";
import { Client, FRAME_WITHIN_MS, Server, waitFor } from "./server.js";
import { closeAll, connected } from "./socketio.js";

const TRANSPORTS = { polling: ["polling"], websocket: ["websocket"], upgrade: ["polling", "websocket"] };

afterEach(closeAll);

describe("Socket.IO", () => {
  let server, ada, bob;
  before(async () => {
    server = await Server.start({ CARILLON_LIMITS__FRAMES_PER_SECOND: "100000", CARILLON_LIMITS__FRAMES_BURST: "100000" });
    ada = server.token("ada");
    bob = server.token("bob");
  });
  after(() => server.remove());

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    describe(name, () => {
      test("the chat tutorial's client runs unchanged", async () => {
        const room = `tutorial-${name}`;
        const said = [];
        const joined = [];
        const left = [];

        // What the tutorial has its readers write.
        const socket = io(server.url, { auth: { token: ada }, transports, forceNew: true });
        socket.on("connect", () => socket.emit("chat:join", room));
        socket.on("chat:message", (message) => said.push(message));
        socket.on("chat:userJoined", (user) => joined.push(user));
        socket.on("chat:userLeft", (user) => left.push(user));

        await waitFor(() => socket.connected, FRAME_WITHIN_MS, () => "a connection");
        await socket.emitWithAck("presence", { room: `chat:${room}` });
        const other = await connected(server, bob, { transports });
        const membership = await other.ask("chat:join", room);
        assert.equal(membership.room, `chat:${room}`);
        assert.equal(membership.recovered, true);
        await waitFor(() => joined.length, FRAME_WITHIN_MS, () => "chat:userJoined");
        assert.deepEqual(joined, [{ id: "bob" }]);

        socket.emit("chat:message", { roomId: room, text: "hello", id: "mine" });
        const [[message, trail]] = await other.until("chat:message");
        const { id, ts, ...rest } = message;
        assert.deepEqual(rest, { roomId: room, text: "hello", userId: "ada", offset: 1 });
        assert.match(id, /^[0-9a-f-]{36}$/);
        assert.ok(Math.abs(ts - Date.now()) < 60_000);
        assert.equal(typeof trail, "string");
        await waitFor(() => said.length, FRAME_WITHIN_MS, () => "the sender's own message");
        assert.deepEqual(said, [message]);

        const stored = await other.ask("chat:message", { roomId: room, text: "hi" });
        assert.equal(stored.offset, 2);
        await waitFor(() => said.length === 2, FRAME_WITHIN_MS, () => "the answer");
        other.emit("chat:leave", room);
        await waitFor(() => left.length, FRAME_WITHIN_MS, () => "chat:userLeft");
        assert.deepEqual(left, [{ id: "bob" }]);

        const carried = socket.io.engine.transport.name;
        assert.equal(carried, name === "polling" ? "polling" : "websocket");
        socket.disconnect();
        other.disconnect();
      });

      test("a bad token is told, and nothing else happens", async () => {
        for (const token of ["nonsense", undefined, 5]) {
          const socket = io(server.url, { auth: { token }, transports, forceNew: true });
          const error = await new Promise((resolve) => socket.on("connect_error", resolve));
          assert.equal(error.message, "Authentication failed");
          assert.equal(socket.active, false);
          socket.disconnect();
        }
      });

      test("what is large comes whole", async () => {
        const socket = await connected(server, ada, { transports });
        await socket.ask("join", `large-${name}`, { echo: true });
        const text = "ä".repeat(25_000);
        await Promise.all([1, 2, 3].map((n) => socket.ask("broadcast", { room: `large-${name}`, payload: { n, text } })));
        const messages = await socket.until("message", 3);
        assert.deepEqual(messages.map(([{ payload }]) => payload.n), [1, 2, 3]);
        assert.ok(messages.every(([{ payload }]) => payload.text === text));
        socket.disconnect();
      });

      test("binary is refused clearly", async () => {
        const socket = await connected(server, ada, { transports });
        const answer = await socket.ask("broadcast", { room: "binary", payload: Buffer.from([1, 2, 3]) });
        assert.equal(answer.error.code, "bad_request");
        assert.match(answer.error.message, /binary/);
        assert.equal((await socket.ask("join", "binary")).offset, 0);
        socket.disconnect();
      });
    });
  }

  test("native events answer with the frame's fields", async () => {
    const socket = await connected(server, ada);
    assert.deepEqual(Object.keys(socket.events("connected")[0][0]), ["userId", "clientId"]);
    assert.equal(socket.events("connected")[0][0].userId, "ada");
    const joined = await socket.ask("join", "native");
    assert.deepEqual(joined, { room: "native", offset: 0, epoch: "", recovered: true });
    const ack = await socket.ask("broadcast", { room: "native", payload: { n: 1 }, key: "k" });
    assert.deepEqual(Object.keys(ack), ["room", "offset", "id", "ts"]);
    const again = await socket.ask("broadcast", { room: "native", payload: { n: 1 }, key: "k" });
    assert.deepEqual([again.offset, again.duplicate], [1, true]);
    const history = await socket.ask("history", { room: "native" });
    assert.deepEqual([history.messages.length, history.more], [1, false]);
    const presence = await socket.ask("presence", { room: "native" });
    assert.deepEqual([presence.count, presence.members[0].userId], [1, "ada"]);
    const refreshed = await socket.ask("refresh", server.token("ada"));
    assert.ok(refreshed.expiresAt > Date.now());
    assert.deepEqual(await socket.ask("leave", "native"), { room: "native" });
    assert.equal((await socket.ask("leave", "native")).error.code, "not_joined");
    assert.equal((await socket.ask("join", "user:bob")).error.code, "forbidden");
    assert.equal((await socket.ask("join", " x")).error.code, "room_invalid");
    assert.equal((await socket.ask("dance")).error.code, "unknown_type");
    assert.equal((await socket.ask("broadcast", { room: "native" })).error.code, "bad_request");
    socket.disconnect();
  });

  test("a refresh of another user is stopped", async () => {
    const socket = await connected(server, ada);
    socket.emit("refresh", bob);
    const reason = await new Promise((resolve) => socket.on("disconnect", resolve));
    assert.equal(reason, "io server disconnect");
    socket.disconnect();
  });

  test("other namespaces are not there", async () => {
    const socket = io(`${server.url}/custom`, { auth: { token: ada }, forceNew: true });
    const error = await new Promise((resolve) => socket.on("connect_error", resolve));
    assert.equal(error.message, "Invalid namespace");
    socket.disconnect();
  });

  test("pages that are not on the list are refused", async () => {
    const path = `${server.url}/socket.io/?EIO=4&transport=polling`;
    const headers = { origin: "https://evil.example.com" };
    assert.equal((await fetch(path, { headers })).status, 403);
    assert.equal((await fetch(path, { method: "OPTIONS", headers })).status, 403);
    const listed = { origin: "http://localhost:5173" };
    const preflight = await fetch(path, { method: "OPTIONS", headers: listed });
    assert.equal(preflight.headers.get("access-control-allow-origin"), listed.origin);
    assert.equal(preflight.headers.get("access-control-allow-credentials"), "true");
  });

  test("doors share rooms", async () => {
    const native = await Client.connect(server, ada);
    await native.ask({ type: "join", room: "chat:shared", presence: true });
    const socket = await connected(server, bob);
    await socket.ask("chat:join", "shared");
    await native.until("userJoined");
    await native.ask({ type: "broadcast", room: "chat:shared", payload: { text: "native" } });
    await native.ask({ type: "broadcast", room: "chat:shared", payload: ["no object"] });
    await native.ask({ type: "broadcast", room: "chat:shared", payload: { typing: true }, ephemeral: true });
    await socket.ask("chat:message", { roomId: "shared", text: "socket" });
    const messages = (await socket.until("chat:message", 4)).map(([message]) => message);
    assert.deepEqual(messages.map(({ offset }) => offset), [1, 2, undefined, 3]);
    assert.deepEqual(messages[1].payload, ["no object"]);
    assert.equal(messages[2].ephemeral, true);
    const frame = await native.until((frame) => frame.offset === 3 && frame.type === "message");
    assert.deepEqual([frame.payload, frame.sender], [{ text: "socket" }, "bob"]);
    // The personal room too.
    await native.ask({ type: "broadcast", room: "user:ada", payload: 1 });
    const own = await connected(server, ada);
    const other = await Client.connect(server, server.token("carol", "--grants", '[{"rooms":["*"],"can":["publish"]}]'));
    await other.ask({ type: "broadcast", room: "user:ada", payload: "for you" });
    const [[personal]] = await own.until("message");
    assert.deepEqual([personal.room, personal.payload, personal.offset], ["user:ada", "for you", 2]);
    for (const client of [native, other]) client.close();
    for (const client of [socket, own]) client.disconnect();
  });

  test("who comes back has missed nothing, five times", async () => {
    for (const [name, transports] of Object.entries(TRANSPORTS)) {
      const publisher = await connected(server, bob);
      const socket = await connected(server, ada, { transports });
      const room = `back-${name}`;
      await socket.ask("chat:join", room);
      await socket.ask("join", `${room}-native`);
      let sent = 0;
      const say = async () => {
        sent += 1;
        await publisher.ask("chat:message", { roomId: room, n: sent });
        await publisher.ask("broadcast", { room: `${room}-native`, payload: sent });
      };
      await say();
      for (let drop = 0; drop < 5; drop += 1) {
        // The second time nothing has come since the last one.
        if (drop !== 1) await say();
        socket.io.engine.close();
        await waitFor(() => !socket.connected, FRAME_WITHIN_MS, () => "the drop");
        if (drop !== 1) await say();
        await waitFor(() => socket.connected, FRAME_WITHIN_MS, () => "the return");
        assert.equal(socket.recovered, true, `${name}, drop ${drop}`);
        await socket.until("chat:message", sent);
      }
      await say();
      const numbers = Array.from({ length: sent }, (_, index) => index + 1);
      assert.deepEqual((await socket.until("chat:message", sent)).map(([{ n }]) => n), numbers);
      assert.deepEqual((await socket.until("message", sent)).map(([{ payload }]) => payload), numbers);
      socket.disconnect();
      publisher.disconnect();
    }
  });

  test("what was on its way when it broke comes after the return", async () => {
    const publisher = await connected(server, bob);
    const socket = await connected(server, ada, { transports: ["websocket"] });
    const expected = Array.from({ length: 40 }, (_, index) => index + 1);
    for (let round = 0; round < 10; round += 1) {
      const room = `on-its-way-${round}`;
      await Promise.all(expected.map(() => publisher.ask("broadcast", { room, payload: "x".repeat(5_000) })));
      const returns = socket.events("connected").length;
      // The pages follow the answer; how many of them have come when it breaks is chance.
      await socket.ask("join", room, { since: 0 });
      socket.io.engine.close();
      await socket.until("connected", returns + 1);
      assert.equal(socket.recovered, true);
      const offsets = () => socket.events("message").filter(([frame]) => frame.room === room).map(([frame]) => frame.offset);
      await waitFor(() => offsets().length >= 40, FRAME_WITHIN_MS, () => `round ${round}: 40 messages; got ${offsets()}`);
      assert.deepEqual(offsets(), expected);
    }
  });

  test("who leaves by its own wish does not come back as who it was", async () => {
    const socket = await connected(server, ada, { transports: ["websocket"] });
    await socket.ask("chat:join", "left");
    // The server answers the close behind the packet that says so; a new connection could be faster than that packet.
    const closed = new Promise((resolve) => socket.io.engine.transport.ws.once("close", resolve));
    socket.disconnect();
    await closed;
    socket.connect();
    await socket.until("connected", 2);
    assert.equal(socket.recovered, false);
    assert.equal((await socket.ask("chat:leave", "left")).error.code, "not_joined");
    socket.disconnect();
  });
});

describe("Socket.IO, when a server dies", () => {
  test("clients come back with everything", async () => {
    const server = await Server.start();
    try {
      const socket = await connected(server, server.token("ada"));
      const publisher = await connected(server, server.token("bob"));
      await socket.ask("chat:join", "crash");
      await publisher.ask("chat:message", { roomId: "crash", n: 1 });
      await socket.until("chat:message");
      for (let crash = 0; crash < 2; crash += 1) {
        await server.kill();
        await server.start();
        await publisher.until("connected", crash + 2);
        await publisher.ask("chat:message", { roomId: "crash", n: crash + 2 });
        await socket.until("connected", crash + 2);
        assert.equal(socket.recovered, true);
        await socket.until("chat:message", crash + 2);
      }
      assert.deepEqual(socket.events("chat:message").map(([{ n }]) => n), [1, 2, 3]);
      socket.disconnect();
      publisher.disconnect();
    } finally {
      await server.remove();
    }
  });

  test("a drain sends them away to come back", async () => {
    const server = await Server.start({ CARILLON_DRAIN__WINDOW_MS: "100" });
    try {
      const clients = [];
      for (const transports of Object.values(TRANSPORTS)) {
        clients.push(await connected(server, server.token("ada"), { transports }));
      }
      const reasons = clients.map((client) => new Promise((resolve) => client.on("disconnect", resolve)));
      const code = await server.stop();
      for (const reason of await Promise.all(reasons)) assert.match(reason, /^transport (close|error)$/);
      assert.equal(code, 0);
      assert.ok(clients.every((client) => client.active));
      for (const client of clients) client.disconnect();
    } finally {
      await server.remove();
    }
  });
});

describe("Socket.IO, where it ends", () => {
  let server, ada;
  before(async () => {
    server = await Server.start({
      CARILLON_LIMITS__HANDSHAKE_MS: "500",
      CARILLON_LIMITS__FRAMES_PER_SECOND: "5",
      CARILLON_LIMITS__FRAMES_BURST: "10",
      CARILLON_LIMITS__OUTBOX_BYTES: "100000",
      CARILLON_LIMITS__UNAUTHENTICATED: "6",
      CARILLON_JWT__LEEWAY_S: "0",
      CARILLON_GATEWAY__SHARDS: "1",
    });
    ada = server.token("ada");
  });
  after(() => server.remove());

  const path = () => `${server.url}/socket.io/?EIO=4&transport=polling`;
  const handshake = async () => JSON.parse((await (await fetch(path())).text()).slice(1)).sid;
  const post = (sid, body) => fetch(`${path()}&sid=${sid}`, { method: "POST", body });
  const poll = async (sid) => (await fetch(`${path()}&sid=${sid}`)).text();

  test("who does not say who it is, is closed", async () => {
    const sid = await handshake();
    assert.equal(await poll(sid), "1");
    assert.equal(JSON.parse(await poll(sid)).code, 1);
  });

  test("those who have not said who they are, are bounded", async () => {
    // Sockets are strangers as well: one that is kept for the next request may have been let go.
    const again = (ask) => ask().catch(ask);
    const sids = [];
    for (let count = 0; count < 10; count += 1) sids.push(await again(handshake));
    // Six may be there: whoever has taken the longest went for one that came later.
    const answer = async (sid) => (await again(() => post(sid, "6"))).status;
    for (const sid of sids.slice(0, 4)) assert.equal(await answer(sid), 400);
    assert.equal(await answer(sids.at(-1)), 200);
    const socket = await connected(server, ada, { reconnectionDelay: 100 });
    socket.disconnect();
  });

  test("packets that are none end the connection", async () => {
    for (const packet of ["4nonsense", "42[]", '42["connect"]', "4599-[]"]) {
      const socket = await connected(server, ada);
      const reason = new Promise((resolve) => socket.once("disconnect", resolve));
      socket.io.engine.write(packet.slice(1));
      assert.match(await reason, /^transport (close|error)$/);
      socket.disconnect();
    }
  });

  test("a payload over the limit is refused", async () => {
    const sid = await handshake();
    assert.equal((await post(sid, `4${"x".repeat(65_536)}`)).status, 413);
    assert.equal(JSON.parse(await poll(sid)).code, 1);
  });

  test("too many events are refused by their acknowledgment", async () => {
    const socket = await connected(server, ada);
    const answers = await Promise.all(Array.from({ length: 15 }, () => socket.ask("ping")));
    const refused = answers.filter(({ error }) => error);
    assert.ok(refused.length >= 4, `${refused.length}`);
    assert.equal(refused[0].error.code, "rate_limited");
    assert.ok(refused[0].error.retryAfterMs > 0);
    socket.disconnect();
  });

  test("the end of a token ends the transport, and the token opens nothing more", async () => {
    const socket = await connected(server, server.token("ada", "--ttl", "2s"));
    const reason = await new Promise((resolve) => socket.on("disconnect", resolve));
    assert.match(reason, /^transport/);
    const error = await new Promise((resolve) => socket.on("connect_error", resolve));
    assert.equal(error.message, "Authentication failed");
    socket.disconnect();
  });

  test("who does not fetch what waits for it is let go", async () => {
    const sid = await handshake();
    await post(sid, `40${JSON.stringify({ token: ada })}`);
    while (!(await poll(sid)).includes("connected"));
    await post(sid, '42["join","slow"]');
    await waitFor(async () => (await poll(sid)).includes("joined"), FRAME_WITHIN_MS, () => "joined");
    const publisher = await connected(server, server.token("bob"));
    for (let n = 0; n < 9; n += 1) await publisher.ask("broadcast", { room: "slow", payload: "x".repeat(60_000) });
    const told = await poll(sid);
    assert.ok(told === "1" || told.includes('"code":1'), told.slice(0, 100));
    publisher.disconnect();
  });
});
