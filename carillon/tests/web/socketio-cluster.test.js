// Socket.IO clients behind a balancer that keeps nobody where they were, and gateways that die.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { Cluster } from "./cluster.js";
import { FRAME_WITHIN_MS, waitFor } from "./server.js";
import { closeAll, connected } from "./socketio.js";

afterEach(closeAll);

describe("Socket.IO without sticky sessions", { skip: !Cluster.isPossible && "no NATS server" }, () => {
  let cluster, ada, bob;
  before(async () => {
    cluster = await Cluster.start();
    ada = cluster.token("ada");
    bob = cluster.token("bob");
  });
  after(() => cluster.remove());

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
});
