// Socket.IO clients behind a balancer that keeps nobody where they were, and gateways that die.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { Cluster } from "./cluster.js";
import { unlessThere } from "./needs.js";
import { FRAME_WITHIN_MS, waitFor } from "./server.js";
import { closeAll, connected } from "./socketio.js";

/** Since before the first test; what comes of it is the last one's. */
let away;

afterEach(() => closeAll({ but: away?.socket }));
after(() => closeAll());

describe("Socket.IO without sticky sessions", { skip: unlessThere("nats", Cluster.isPossible, "CARILLON_NATS_SERVER names no nats-server") }, () => {
  let cluster, ada, bob;
  before(async () => {
    cluster = await Cluster.start({ CARILLON_LIMITS__FRAMES_PER_SECOND: "10000", CARILLON_LIMITS__FRAMES_BURST: "10000" });
    ada = cluster.token("ada");
    bob = cluster.token("bob");
    away = await leave("away");
  });
  after(() => cluster.remove());

  /** A client that was in a room, and lost its transport; it comes back when it is told to. */
  async function leave(room) {
    const socket = await connected(cluster, ada, { transports: ["polling"], reconnection: false });
    await socket.ask("chat:join", room);
    socket.io.engine.close();
    await waitFor(() => !socket.connected, FRAME_WITHIN_MS, () => "the drop");
    return { socket, room, left: performance.now() };
  }

  test("requests of one client at once are refused, whichever gateways they reach", async () => {
    const [one, other] = cluster.gateways.map(({ address }) => `http://${address}/socket.io/?EIO=4&transport=polling`);
    const slow = () => {
      const body = new ReadableStream({
        async start(controller) {
          controller.enqueue(new TextEncoder().encode("4"));
          await new Promise((resolve) => setTimeout(resolve, 1000));
          controller.close();
        },
      });
      return { method: "POST", body, duplex: "half" };
    };
    for (const [slowly, quickly] of [[one, other], [other, one], [other, other]]) {
      const { sid } = JSON.parse((await (await fetch(one)).text()).slice(1));
      const first = fetch(`${slowly}&sid=${sid}`, slow()).catch(() => ({ status: 400 }));
      await new Promise((resolve) => setTimeout(resolve, 300));
      const second = await fetch(`${quickly}&sid=${sid}`, { method: "POST", body: "40" });
      assert.deepEqual([second.status, (await first).status], [400, 400], "POST");
      assert.equal((await fetch(`${one}&sid=${sid}`)).status, 400);
    }
    for (const [first, second] of [[one, other], [other, one], [other, other]]) {
      const { sid } = JSON.parse((await (await fetch(one)).text()).slice(1));
      const waiting = fetch(`${first}&sid=${sid}`);
      await new Promise((resolve) => setTimeout(resolve, 300));
      assert.equal((await fetch(`${second}&sid=${sid}`)).status, 400, "GET");
      assert.equal(await (await waiting).text(), "1");
    }
  });

  test("five drops in a row lose nothing", async () => {
    const publisher = await connected(cluster, bob);
    const { socket, room } = await leave("drops");
    for (let drop = 1; drop <= 5; drop += 1) {
      if (drop === 5) for (const n of [1, 2, 3]) await publisher.ask("chat:message", { roomId: room, n });
      socket.connect();
      await socket.until("connected", drop + 1);
      assert.equal(socket.recovered, true, `drop ${drop}`);
      if (drop === 5) break;
      socket.io.engine.close();
      await waitFor(() => !socket.connected, FRAME_WITHIN_MS, () => "the drop");
    }
    await publisher.ask("chat:message", { roomId: room, n: 4 });
    assert.deepEqual((await socket.until("chat:message", 4)).map(([{ n }]) => n), [1, 2, 3, 4]);
  });

  test("a client that polls is served by two gateways in turn", async () => {
    const socket = await connected(cluster, ada, { transports: ["polling"] });
    await socket.ask("chat:join", "turns");
    const before = [...cluster.requests];
    for (let n = 1; n <= 20; n += 1) await socket.ask("chat:message", { roomId: "turns", n });
    const messages = await socket.until("chat:message", 20);
    assert.deepEqual(messages.map(([{ offset }]) => offset), Array.from({ length: 20 }, (_, index) => index + 1));
    assert.ok(cluster.requests.every((count, index) => count - before[index] >= 10), `${cluster.requests}`);
    assert.equal(socket.events("connected").length, 1);
    socket.disconnect();
  });

  test("the upgrade works on whichever gateway it lands", async () => {
    for (let round = 0; round < 4; round += 1) {
      const socket = await connected(cluster, ada);
      await waitFor(() => socket.io.engine.transport.name === "websocket", FRAME_WITHIN_MS, () => "the upgrade");
      await socket.ask("join", `upgrade-${round}`, { echo: true });
      const text = "x".repeat(20_000);
      await Promise.all([1, 2, 3, 4].map((n) => socket.ask("broadcast", { room: `upgrade-${round}`, payload: { n, text } })));
      const messages = await socket.until("message", 4);
      assert.deepEqual(messages.map(([{ payload }]) => payload.n), [1, 2, 3, 4]);
      assert.equal(socket.events("connected").length, 1);
      socket.disconnect();
    }
  });

  test("an id that no gateway holds is unknown", async () => {
    // Well-formed, and of a gateway that never was.
    const sid = Buffer.alloc(32, 7).toString("base64url");
    const began = performance.now();
    const answer = await fetch(`${cluster.url}/socket.io/?EIO=4&transport=polling&sid=${sid}`);
    assert.equal(answer.status, 400);
    assert.deepEqual(await answer.json(), { code: 1, message: "Session ID unknown" });
    assert.ok(performance.now() - began < FRAME_WITHIN_MS);
  });

  for (const transports of [["polling"], ["websocket"], ["polling", "websocket"]]) {
    test(`its gateway may die under a client by ${transports}, again and again`, async () => {
      const room = `deaths-${transports.length}-${transports[0]}`;
      const socket = await connected(cluster, ada, { transports });
      const publisher = await connected(cluster, bob, { transports });
      const said = [];
      const say = async () => {
        // Who speaks may lose its gateway as well: a key makes saying it again harmless.
        const n = said.length + 1;
        await waitFor(
          async () => {
            const payload = { room: `chat:${room}`, payload: { n }, key: `${room}-${n}` };
            const answer = await publisher.timeout(3000).emitWithAck("broadcast", payload).catch(() => null);
            return answer?.offset;
          },
          60_000,
          () => "a publish",
        );
        said.push(n);
      };
      await socket.ask("chat:join", room);
      await say();
      await socket.until("chat:message", 1);
      for (let death = 0; death < 5; death += 1) {
        const back = socket.events("connected").length + 1;
        const dead = cluster.gateways[death % 2];
        await dead.kill();
        await say();
        await say();
        await dead.start();
        await say();
        await socket.until("chat:message", said.length);
        if (socket.events("connected").length >= back) assert.equal(socket.recovered, true, `death ${death}`);
      }
      assert.deepEqual(socket.events("chat:message").map(([{ n }]) => n), said);
      assert.ok(socket.events("connected").length > 1, "it lost its gateway at least once");
      socket.disconnect();
      publisher.disconnect();
    });
  }

  test("who was away for longer than anything is remembered of a client comes back from the log", async () => {
    // Longer than the lease of a gateway (10 s), the grace of presence (5 s), a lost gateway (3 s); and more messages than an
    // owner has at hand (128 of a room). Meanwhile both gateways died.
    const AWAY_MS = 12_000;
    const MISSED = 200;
    const publisher = await connected(cluster, bob);
    const numbers = Array.from({ length: MISSED }, (_, index) => index + 1);
    for (const n of numbers) await publisher.ask("chat:message", { roomId: away.room, n });
    await waitFor(() => performance.now() - away.left > AWAY_MS, 2 * AWAY_MS, () => "the time");
    away.socket.auth.token = cluster.token("ada");
    away.socket.connect();
    const messages = await away.socket.until("chat:message", MISSED);
    assert.equal(away.socket.recovered, true);
    assert.deepEqual(messages.map(([{ n }]) => n), numbers);
    await publisher.ask("chat:message", { roomId: away.room, n: MISSED + 1 });
    assert.deepEqual((await away.socket.until("chat:message", MISSED + 1)).at(-1)[0].n, MISSED + 1);
  });
});
