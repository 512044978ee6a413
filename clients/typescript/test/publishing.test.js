// What is said is stored once, and in order, however often and however long the connection breaks.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { World, ack, message, outcomeOf, own, settled } from "./fake.js";

const MINUTE_MS = 60_000;

/** A part of the SDK that is loaded when it is needed has come, and done its work. */
async function until(isSo) {
  for (let n = 0; !isSo() && n < 1_000; n += 1) await settled();
  assert.ok(isSo());
}

/** A live room, with one publish on its way when the connection breaks; `awayMs` later there is a new one. */
async function inDoubt(awayMs, { head = 5 } = {}) {
  const world = new World();
  const { room, told } = await world.room("lobby", { head });
  const published = outcomeOf(room.publish("mine"));
  await settled();
  const { key } = world.socket.last("broadcast");
  world.socket.closes(1006);
  world.clock.sleep(awayMs);
  await world.connected();
  const rejoined = (more) => world.answer("join", { type: "joined", offset: head, epoch: "e1", recovered: true, ...more });
  return { world, room, told, published, key, rejoined };
}

describe("a publish", () => {
  it("carries a key, and resolves with its place", async () => {
    const world = new World();
    await world.connected();
    const published = outcomeOf(world.carillon.room("lobby").publish({ text: "hi" }));
    await settled();
    const frame = world.socket.last("broadcast");
    assert.match(frame.key, /^[\w-]{8,64}$/);
    assert.deepEqual(frame.payload, { text: "hi" });
    assert.equal(published.state, "waiting");
    world.answer("broadcast", ack(3));
    await settled();
    assert.deepEqual(published.value, { offset: 3, id: "id-3", ts: 1_000_000_000_003 });
    assert.equal(world.socket.of("join").length, 0, "publishing needs no membership");
  });

  it("made offline waits, and goes out in order once the room was read", async () => {
    const world = new World();
    const room = world.carillon.room("lobby");
    room.on("message", () => {});
    for (const payload of [1, 2, 3]) void room.publish(payload);
    await world.connected();
    assert.deepEqual(world.socket.of("broadcast"), []);
    world.answer("join", { type: "joined", offset: 2, epoch: "e1", recovered: true });
    assert.deepEqual(world.socket.of("broadcast").map(({ payload }) => payload), [1, 2, 3]);
  });

  it("waits in a bounded queue", async () => {
    const world = new World({ queueLimit: 2 });
    const room = world.carillon.room("lobby");
    const first = outcomeOf(room.publish(1));
    void world.carillon.room("other").publish(2);
    await assert.rejects(room.publish(3), { code: "queue_full" });
    await world.connected();
    world.socket.says({ ...ack(1), room: "lobby", ref: world.socket.of("broadcast").find(({ room }) => room === "lobby").ref });
    await settled();
    assert.equal(first.state, "done");
    void room.publish(4);
    assert.equal(world.socket.last("broadcast").payload, 4);
  });

  it("that is no JSON, or too large, is refused here", async () => {
    const world = new World();
    await world.connected({ limits: { frameBytes: 1_000, rooms: 1, framesPerSecond: 50 } });
    const room = world.carillon.room("lobby");
    await assert.rejects(room.publish(undefined), { code: "bad_request" });
    void room.publish("", { key: "k" });
    const around = JSON.stringify(world.socket.last("broadcast")).length;
    await assert.rejects(room.publish("é".repeat((1_000 - around) / 2 + 1), { key: "k" }), { code: "payload_too_large" });
    void room.publish("e".repeat(1_000 - around), { key: "k" });
    assert.equal(JSON.stringify(world.socket.last("broadcast")).length, 1_000, "one of exactly the limit is sent");
    assert.deepEqual([room.ephemeral("e".repeat(1_000)), room.ephemeral("e")], [false, true]);
  });

  it("that turns out to be too large once the limit is known rejects alone, and is never sent", async () => {
    const world = new World();
    const room = world.carillon.room("lobby");
    const [before, large, after] = ["1", "e".repeat(2_000), "2"].map((payload) => outcomeOf(room.publish(payload)));
    await world.connected({ limits: { frameBytes: 1_000, rooms: 1, framesPerSecond: 50 } });
    assert.deepEqual([large.error?.code, large.error?.outcome, large.error?.publish.payload.length], ["payload_too_large", undefined, 2_000]);
    assert.deepEqual(world.socket.of("broadcast").map(({ payload }) => payload), ["1", "2"]);
    for (const [offset, { ref }] of world.socket.of("broadcast").entries()) world.socket.says({ ...ack(offset + 1), room: "lobby", ref });
    await settled();
    assert.deepEqual([before.value?.offset, after.value?.offset, world.connection.state], [1, 2, "connected"]);
  });

  it("that the server refuses rejects", async () => {
    const world = new World();
    await world.connected();
    const published = outcomeOf(world.carillon.room("lobby").publish(1));
    world.answer("broadcast", { type: "error", code: "forbidden", message: "no" });
    await settled();
    assert.deepEqual([published.error.code, published.error.outcome], ["forbidden", undefined]);
  });

  it("that is refused for now is sent again, and nothing overtakes it", async () => {
    const world = new World();
    await world.connected();
    const room = world.carillon.room("lobby");
    const published = outcomeOf(room.publish(1));
    const { key } = world.socket.last("broadcast");
    world.answer("broadcast", { type: "error", code: "rate_limited", message: "", retryAfterMs: 200 });
    void room.publish(2);
    assert.equal(world.socket.of("broadcast").length, 1);
    await world.clock.pass(200);
    assert.deepEqual(world.socket.of("broadcast").map(({ payload }) => payload), [1, 1]);
    assert.equal(world.socket.last("broadcast").key, key);
    assert.equal(published.state, "waiting");
    world.answer("broadcast", ack(1));
    assert.equal(world.socket.last("broadcast").payload, 2);
  });

  it("that is refused for now takes all behind it along, in order", async () => {
    const world = new World();
    await world.connected();
    const room = world.carillon.room("lobby");
    const published = ["a", "b", "c", "d"].map((payload) => outcomeOf(room.publish(payload)));
    const [a, b, c, d] = world.socket.of("broadcast");
    const answer = ({ ref }, frame) => world.socket.says({ room: "lobby", ...frame, ref });
    const refuse = (frame) => answer(frame, { type: "error", code: "rate_limited", message: "", retryAfterMs: 100 });
    answer(a, ack(1));
    refuse(b);
    answer(c, ack(2)); // Its place came free just then.
    await world.clock.pass(50);
    refuse(d); // No longer of interest: it is sent again anyway, and does not put off the others.
    await world.clock.pass(50);
    const again = () => world.socket.of("broadcast").slice(4).map(({ payload }) => payload);
    assert.deepEqual(again(), ["b"], "one at a time, so that what is refused again is not overtaken again");
    refuse(world.socket.last("broadcast"));
    await world.clock.pass(100);
    assert.deepEqual(again(), ["b", "b"]);
    answer(world.socket.last("broadcast"), ack(3));
    assert.deepEqual(again(), ["b", "b", "d"]);
    assert.equal(world.socket.last("broadcast").key, d.key);
    answer(world.socket.last("broadcast"), ack(4));
    await settled();
    assert.deepEqual(published.map(({ value }) => value?.offset), [1, 3, 2, 4]);
    for (const payload of ["e", "f"]) void room.publish(payload);
    assert.deepEqual(again(), ["b", "b", "d", "e", "f"], "all that were held up are through, and it is as fast as before");
  });

  it("that is refused for good does not hold up the next, one at a time", async () => {
    const world = new World();
    await world.connected();
    const room = world.carillon.room("lobby");
    const [, second] = [1, 2, 3].map((payload) => outcomeOf(room.publish(payload)));
    world.socket.says({ type: "error", room: "lobby", ref: world.socket.of("broadcast")[0].ref, code: "unavailable", message: "", retryAfterMs: 10 });
    await world.clock.pass(10);
    world.answer("broadcast", ack(1));
    assert.equal(world.socket.last("broadcast").payload, 2);
    world.answer("broadcast", { type: "error", code: "forbidden", message: "" });
    await settled();
    assert.deepEqual([second.error?.code, world.socket.last("broadcast").payload], ["forbidden", 3]);
  });

  it("goes out in order where the server's allowance is small, and the network holds frames up", async () => {
    for (const framesBurst of [10, 50, 80]) {
      const world = new World();
      await world.connected({ limits: { frameBytes: 65_536, rooms: 1, framesPerSecond: 50, framesBurst } });
      const room = world.carillon.room("lobby");
      const log = [];
      let tokens = framesBurst, filledAt = world.clock.time, seen = 0;
      for (let n = 0; n < 120; n += 1) void room.publish(n);
      // What was sent arrives every 60 ms, all of it together.
      for (let ms = 0; ms < 20_000 && log.length < 120; ms += 60) {
        await world.clock.pass(60);
        for (const { ref, payload } of world.socket.of("broadcast").slice(seen)) {
          seen += 1;
          tokens = Math.min(framesBurst, tokens + ((world.clock.time - filledAt) * 50) / 1_000);
          filledAt = world.clock.time;
          const isTaken = tokens >= 1;
          if (isTaken) {
            tokens -= 1;
            log.push(payload);
          }
          const frame = isTaken ? ack(log.length) : { type: "error", code: "rate_limited", message: "", retryAfterMs: 20 };
          world.clock.setTimeout(() => world.socket.says({ room: "lobby", ...frame, ref }), 30);
        }
      }
      assert.deepEqual(log, Array.from({ length: 120 }, (_, n) => n));
    }
  });

  it("whose outcome is unknown is repeated with its key", async () => {
    const world = new World();
    await world.connected();
    const published = outcomeOf(world.carillon.room("lobby").publish(1));
    const { key } = world.socket.last("broadcast");
    world.answer("broadcast", { type: "error", code: "unavailable", message: "", outcome: "unknown" });
    await world.clock.pass(500);
    assert.equal(world.socket.last("broadcast").key, key);
    world.answer("broadcast", ack(8, { duplicate: true }));
    await settled();
    assert.deepEqual(published.value, { offset: 8, id: "id-8", ts: 1_000_000_000_008, duplicate: true });
  });

  it("takes the app's own key", async () => {
    const world = new World();
    const { room, told } = await world.room();
    void room.publish("order", { key: "order-17" });
    await settled();
    assert.equal(world.socket.last("broadcast").key, "order-17");
    const keys = [];
    room.on("message", ({ key }) => keys.push(key));
    world.answer("broadcast", ack(1));
    assert.deepEqual([keys, told.messages], [["order-17"], ["1 order"]]);
  });

  it("is taken as it was when it was made", async () => {
    const world = new World();
    const { room } = await world.room();
    const payload = { n: 1 };
    const got = [];
    room.on("message", (message) => got.push(message.payload));
    void room.publish(payload);
    payload.n = 2;
    await settled();
    world.answer("broadcast", ack(1));
    assert.deepEqual(got, [{ n: 1 }]);
  });
});

describe("a publish in doubt", () => {
  it("is settled by its `own` frame in the replay", async () => {
    const { world, told, published, key, rejoined } = await inDoubt(24 * 60 * MINUTE_MS);
    rejoined({ offset: 8 });
    world.socket.says(message(6), own(7, key), message(8));
    await settled();
    assert.equal(published.value.offset, 7);
    assert.deepEqual(told.messages, ["6 m6", "7 mine", "8 m8"]);
    assert.equal(world.socket.of("broadcast").length, 0, "it is not sent again");
  });

  it("is repeated with its key, after the replay", async () => {
    const { world, told, published, key, rejoined } = await inDoubt(1_000);
    assert.equal(world.socket.of("broadcast").length, 0);
    rejoined({ offset: 6 });
    assert.equal(world.socket.of("broadcast").length, 0);
    world.socket.says(message(6));
    assert.equal(world.socket.last("broadcast").key, key);
    world.answer("broadcast", ack(7));
    await settled();
    assert.equal(published.value.offset, 7);
    assert.deepEqual(told.messages, ["6 m6", "7 mine"]);
  });

  it("that the replay did not show was not stored, however long ago it was", async () => {
    const { world, published, rejoined } = await inDoubt(24 * 60 * MINUTE_MS);
    rejoined();
    world.answer("broadcast", ack(6));
    await settled();
    assert.equal(published.value.offset, 6);
  });

  it("that was stored while it was repeated is told once", async () => {
    const { world, told, published, key, rejoined } = await inDoubt(1_000);
    rejoined();
    world.socket.says(own(6, key));
    world.answer("broadcast", ack(6, { duplicate: true }));
    world.socket.says(own(6, key), message(7));
    await settled();
    assert.equal(published.value.offset, 6);
    assert.deepEqual(told.messages, ["6 mine", "7 m7"]);
  });

  it("goes before what was said later", async () => {
    const { world, room, rejoined } = await inDoubt(1_000);
    void room.publish("later");
    rejoined();
    assert.deepEqual(world.socket.of("broadcast").map(({ payload }) => payload), ["mine", "later"]);
  });

  it("may be lost in a gap: then nobody knows", async () => {
    const { world, published, rejoined } = await inDoubt(60 * MINUTE_MS);
    rejoined({ offset: 500, recovered: false, reason: "trimmed" });
    await settled();
    world.answer("history", { type: "history", messages: [message(400)], more: true, epoch: "e1" });
    rejoined({ offset: 400 });
    world.socket.says(message(400));
    await until(() => world.socket.of("history").length === 2);
    world.answer("history", { type: "history", messages: [message(400)], more: false, epoch: "e1" });
    await until(() => published.state === "failed");
    assert.deepEqual([published.error?.code, published.error?.outcome], ["unavailable", "unknown"]);
    assert.equal(world.socket.of("broadcast").length, 0);
  });

  it("in a gap that was short is repeated with its key", async () => {
    const { world, published, rejoined } = await inDoubt(30_000);
    rejoined({ offset: 500, recovered: false, reason: "trimmed" });
    await settled();
    world.answer("history", { type: "history", messages: [], more: false, epoch: "e1" });
    rejoined({ offset: 500 });
    world.answer("broadcast", ack(42, { duplicate: true }));
    await settled();
    assert.equal(published.value.offset, 42);
  });

  it("that the connection stopped under rejects, and says that nobody knows", async () => {
    const world = new World();
    const { room } = await world.room();
    const sent = outcomeOf(room.publish(1));
    await settled();
    world.socket.closes(4001, "unauthorized");
    await settled();
    assert.deepEqual([sent.error.code, sent.error.outcome, sent.error.closeCode], ["unauthorized", "unknown", 4001]);
    await assert.rejects(room.publish(2), ({ code, outcome }) => code === "unauthorized" && !outcome);
  });
});

describe("a publish in doubt, in a room that is not joined,", () => {
  async function unjoined(awayMs) {
    const world = new World();
    await world.connected();
    const room = world.carillon.room("lobby");
    const first = outcomeOf(room.publish("same"));
    world.answer("broadcast", ack(4));
    await settled();
    assert.equal(first.value.offset, 4);
    const published = outcomeOf(room.publish("same"));
    await settled();
    const { key } = world.socket.last("broadcast");
    world.socket.closes(1006);
    world.clock.sleep(awayMs);
    await world.connected();
    await until(() => world.socket.sent.length > 0);
    return { world, published, key, past: (payload, offset, more) => ({ ...message(offset, payload, { sender: "ada", ...more }) }) };
  }

  it("is repeated while the server knows its key", async () => {
    const { world, key } = await unjoined(90_000);
    assert.equal(world.socket.last("broadcast").key, key);
  });

  it("is looked for in the history after that", async () => {
    const { world, published, key, past } = await unjoined(3 * MINUTE_MS);
    assert.equal(world.socket.of("broadcast").length, 0);
    // By its key alone: others of the same words are others, also one that another tab of the same user said.
    const messages = [past("same", 4, { key: "another" }), past("same", 5, { sender: "grace" }), past("same", 6, { key }), past("same", 7)];
    world.answer("history", { type: "history", messages, more: true, epoch: "e1" });
    await settled();
    assert.deepEqual([published.value?.offset, published.value?.duplicate], [6, true]);
  });

  it("is sent again if it is not there", async () => {
    const { world, published, past } = await unjoined(3 * MINUTE_MS);
    world.answer("history", { type: "history", messages: [past("same", 4)], more: true, epoch: "e1" });
    await settled();
    assert.equal(world.socket.last("history").before, 4);
    world.answer("history", { type: "history", messages: [past("same", 3, { ts: 1_000_000_000_000 - 60 * MINUTE_MS })], more: true, epoch: "e1" });
    await settled();
    world.answer("broadcast", ack(9));
    await settled();
    assert.equal(published.value?.offset, 9);
  });

  it("is sent again if the room began later, and also where it is empty", async () => {
    for (const messages of [[message(1, "x", { ts: 1_000_000_100_000 })], []]) {
      const { world, published } = await unjoined(3 * MINUTE_MS);
      world.answer("history", { type: "history", messages, more: false, epoch: messages.length ? "e1" : "" });
      await until(() => world.socket.of("broadcast").length === 1);
      world.answer("broadcast", ack(9));
      await settled();
      assert.equal(published.value?.offset, 9);
    }
  });

  it("stays unknown where the history does not reach back to it", async () => {
    const { world, published, past } = await unjoined(3 * MINUTE_MS);
    world.answer("history", { type: "history", messages: [past("same", 40)], more: false, epoch: "e1" });
    await until(() => published.state === "failed");
    assert.deepEqual([published.error.code, published.error.outcome, world.socket.of("broadcast").length], ["unavailable", "unknown", 0]);
  });

  it("stays unknown where the history may not be read", async () => {
    const { world, published } = await unjoined(3 * MINUTE_MS);
    world.answer("history", { type: "error", code: "forbidden", message: "" });
    await settled();
    assert.deepEqual([published.error?.code, published.error?.outcome], ["forbidden", "unknown"]);
  });
});

describe("a publish that is rejected", () => {
  it("is in the error, and told to whoever listens, also where nobody looks at the promise", async (test) => {
    const unhandled = [];
    const listener = (error) => unhandled.push(error);
    process.on("unhandledRejection", listener);
    test.after(() => process.off("unhandledRejection", listener));
    const world = new World({ queueLimit: 3 });
    const { room } = await world.room();
    const told = [];
    room.on("rejected", ({ code, outcome, publish }) => told.push([code, outcome, publish]));
    const sent = outcomeOf(room.publish("sent", { key: "1" }));
    await settled();
    world.connection.drop(1_000);
    const waiting = { text: "not sent" };
    void room.publish(waiting, { key: "2" });
    void room.publish("3", { key: "3" });
    void room.publish("one too many", { key: "4" });
    await world.connected();
    world.socket.closes(4001, "unauthorized");
    void room.publish("after the end", { key: "5" });
    const circular = {};
    circular.circular = circular;
    void room.publish(circular, { key: "6" });
    for (let n = 0; n < 5; n += 1) await settled();
    assert.deepEqual(told.map(([code, outcome, { key }]) => [key, code, outcome]), [
      ["4", "queue_full", undefined], ["1", "unauthorized", "unknown"], ["2", "unauthorized", undefined], ["3", "unauthorized", undefined],
      ["5", "unauthorized", undefined], ["6", "unauthorized", undefined],
    ]);
    assert.deepEqual(told[2][2], { room: "lobby", key: "2", payload: waiting });
    assert.deepEqual(sent.error.publish, { room: "lobby", key: "1", payload: "sent" });
    assert.deepEqual(unhandled, []);
  });

  it("does not join the room that is listened to", async () => {
    const world = new World();
    world.carillon.room("lobby").on("rejected", () => {});
    await world.connected();
    assert.equal(world.socket.of("join").length, 0);
  });

  it("is none where only the token ended: it waits for the next one", async () => {
    let asked = 0;
    const world = new World({ token: () => `h.t${(asked += 1)}.s` });
    const { room } = await world.room("lobby", { head: 3 });
    const sent = outcomeOf(room.publish("sent"));
    await settled();
    world.socket.closes(4004, "token_expired");
    const waits = outcomeOf(room.publish("waits"));
    await world.clock.pass(0);
    await world.connected();
    assert.equal(world.socket.protocols[1], "carillon.token.h.t2.s");
    world.answer("join", { type: "joined", offset: 3, epoch: "e1", recovered: true });
    const [first, second] = world.socket.of("broadcast");
    world.socket.says({ ...ack(4), room: "lobby", ref: first.ref }, { ...ack(5), room: "lobby", ref: second.ref });
    await settled();
    assert.deepEqual([sent.value?.offset, waits.value?.offset], [4, 5]);
  });
});

it("who writes a room's first message learns the name of its life", async () => {
  const world = new World();
  const { room } = await world.room();
  void room.publish("first");
  await settled();
  world.answer("broadcast", ack(1));
  world.answer("history", { type: "history", messages: [], more: false, epoch: "e1" });
  assert.deepEqual(room.position, { offset: 1, epoch: "e1" });
});

it("who writes the first message of another life finds that out", async () => {
  const world = new World();
  const { room, told } = await world.room("lobby", { head: 9 });
  void room.publish("first");
  await settled();
  world.answer("broadcast", ack(1));
  assert.equal(world.socket.last("join").since, 9);
  world.answer("join", { type: "joined", offset: 1, epoch: "e2", recovered: false, reason: "epoch" });
  await settled();
  assert.deepEqual(told.gaps.map(({ reason }) => reason), ["epoch"]);
});
