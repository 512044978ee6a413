// A room is a log: every message once, in order, and what can't be had is said.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { World, ack, message, outcomeOf, own, settled, tellingOf } from "./fake.js";

const offsets = (from, to) => Array.from({ length: to - from + 1 }, (_, n) => `${from + n} m${from + n}`);

describe("joining", () => {
  it("asks once for all that is wanted", async () => {
    const world = new World();
    const room = world.carillon.room("lobby", { last: 50 });
    assert.equal(world.carillon.room("lobby"), room, "the same room for the same name");
    room.on("message", () => {});
    room.on("presence", () => {});
    await world.connected();
    assert.deepEqual(world.socket.of("join").map(({ ref, ...frame }) => frame), [{ type: "join", room: "lobby", last: 50, presence: true, echo: false }]);
    assert.equal(room.state, "joining");
  });

  it("without `last` tells what comes from now on", async () => {
    const world = new World();
    const { room, told } = await world.room("lobby", { head: 7 });
    assert.equal(room.state, "live");
    assert.deepEqual(room.position, { offset: 7, epoch: "e1" });
    world.socket.says(message(8), message(9));
    assert.deepEqual(told.messages, offsets(8, 9));
  });

  it("with `last` is live once the newest were told", async () => {
    const world = new World();
    const { room, told } = await world.room("lobby", { head: 7, options: { last: 2 } });
    world.socket.says(message(6));
    assert.equal(room.state, "joining");
    world.socket.says(message(7));
    assert.equal(room.state, "live");
    assert.deepEqual(told.messages, offsets(6, 7));
  });

  it("with `last` of an empty room is live at once", async () => {
    const world = new World();
    const { room } = await world.room("lobby", { options: { last: 2 } });
    assert.equal(room.state, "live");
  });

  it("goes on where an earlier life of the app was", async () => {
    const world = new World();
    const room = world.carillon.room("lobby", { since: { offset: 4, epoch: "e1" }, last: 50 });
    const told = tellingOf(room);
    await world.connected();
    const { since, epoch, last } = world.socket.last("join");
    assert.deepEqual({ since, epoch, last }, { since: 4, epoch: "e1", last: undefined });
    world.answer("join", { type: "joined", offset: 6, epoch: "e1", recovered: true });
    world.socket.says(message(5), message(6));
    assert.deepEqual(told.messages, offsets(5, 6));
  });

  it("that is refused says so, and is asked for again with the next connection", async () => {
    const world = new World();
    const room = world.carillon.room("secret");
    tellingOf(room);
    await world.connected();
    world.answer("join", { type: "error", code: "forbidden", message: "no" });
    assert.deepEqual([room.state, room.error.code], ["refused", "forbidden"]);
    await world.clock.pass(20_000);
    assert.equal(world.socket.of("join").length, 1);
    await world.broken();
    world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true });
    assert.deepEqual([room.state, room.error], ["live", undefined]);
  });

  it("that can't be answered now is asked for again", async () => {
    const world = new World();
    const room = world.carillon.room("lobby");
    tellingOf(room);
    await world.connected();
    world.answer("join", { type: "error", code: "unavailable", message: "", retryAfterMs: 300 });
    world.socket.says({ type: "left", room: "lobby" });
    await settled();
    assert.equal(world.socket.of("join").length, 1);
    await world.clock.pass(300);
    assert.equal(world.socket.of("join").length, 2);
    world.answer("join", { type: "error", code: "unavailable", message: "" });
    await world.clock.pass(500);
    assert.equal(world.socket.of("join").length, 3);
    assert.equal(room.state, "joining");
  });

  it("a room that a newer token does not open is refused", async () => {
    const world = new World();
    const { room } = await world.room();
    world.socket.says({ type: "left", room: "lobby" }, { type: "error", room: "lobby", code: "forbidden", message: "" });
    await settled();
    world.answer("join", { type: "error", code: "forbidden", message: "" });
    assert.equal(room.state, "refused");
  });

  it("that was refused is asked for again with a newer token", async () => {
    const world = new World({ token: "narrow" });
    const room = world.carillon.room("lobby", { last: 5 });
    const told = [];
    room.on("message", ({ offset }) => told.push(offset));
    const ends = [];
    room.on("end", ({ code }) => ends.push(code));
    await world.connected();
    const refuse = () => world.answer("join", { type: "error", code: "forbidden", message: "" });
    refuse();
    for (const isWide of [false, true]) {
      const { length } = world.socket.of("join");
      world.carillon.refresh("wider");
      await settled();
      world.answer("refresh", { type: "refreshed" });
      assert.equal(world.socket.of("join").length, length + 1);
      if (!isWide) refuse();
      assert.deepEqual([room.state, ends], ["refused", ["forbidden"]]);
    }
    world.answer("join", { type: "joined", offset: 3, epoch: "e1", recovered: true });
    world.socket.says(message(3), message(4));
    assert.deepEqual([room.state, room.error, told], ["live", undefined, [3, 4]]);
  });

  it("ends with `leave`, and begins anew after it", async () => {
    const world = new World();
    const { room, told } = await world.room("lobby", { head: 3 });
    room.leave();
    assert.equal(world.socket.of("leave").length, 1);
    assert.deepEqual([room.state, room.position], ["idle", undefined]);
    world.socket.says(message(4));
    await world.broken();
    assert.equal(world.socket.of("join").length, 0);
    room.join();
    await settled();
    world.answer("join", { type: "joined", offset: 9, epoch: "e1", recovered: true });
    world.socket.says(message(10));
    assert.deepEqual(told.messages, offsets(10, 10));
  });
});

describe("options that somebody else brings later", () => {
  it("hold for a join that is under way", async () => {
    const world = new World();
    await world.connected();
    const room = world.carillon.room("lobby");
    room.on("presence", () => {});
    await settled();
    const told = tellingOf(world.carillon.room("lobby", { last: 3 }));
    await settled();
    const [first, second] = world.socket.of("join");
    assert.deepEqual([first.last, second.last, second.presence], [undefined, 3, true]);
    world.socket.says({ type: "joined", room: "lobby", ref: first.ref, offset: 9, epoch: "e1", recovered: true, members: [] });
    world.answer("join", { type: "joined", offset: 9, epoch: "e1", recovered: true, members: [] });
    world.socket.says(message(7), message(8), message(9));
    assert.deepEqual([told.messages, room.state], [offsets(7, 9), "live"]);
  });

  it("hold for a room where nobody was told a message", async () => {
    for (const [options, asked] of [[{ last: 2 }, { last: 2 }], [{ since: { offset: 4, epoch: "e1" } }, { since: 4, epoch: "e1" }]]) {
      const world = new World();
      await world.connected();
      world.carillon.room("lobby").on("presence", () => {});
      await settled();
      world.answer("join", { type: "joined", offset: 5, epoch: "e1", recovered: true, members: [] });
      world.socket.says(message(6));
      const told = tellingOf(world.carillon.room("lobby", options));
      await settled();
      const { last, since, epoch } = world.socket.last("join");
      assert.deepEqual(JSON.parse(JSON.stringify({ last, since, epoch })), asked);
      world.answer("join", { type: "joined", offset: 6, epoch: "e1", recovered: true, members: [] });
      world.socket.says(message(5), message(6), message(7));
      assert.deepEqual(told.messages, offsets(5, 7));
    }
  });

  it("that are those of before ask for nothing", async () => {
    const world = new World();
    await world.connected();
    for (const options of [{ last: 2 }, { since: { offset: 4, epoch: "e1" } }]) {
      const room = world.carillon.room(JSON.stringify(options), options);
      room.on("message", () => {});
      await settled();
      world.answer("join", { type: "joined", offset: 4, epoch: "e1", recovered: true });
      const { length } = world.socket.of("join");
      for (let n = 0; n < 3; n += 1) world.carillon.room(room.name, structuredClone(options)).ephemeral("typing");
      await settled();
      assert.equal(world.socket.of("join").length, length);
    }
  });

  it("tell nothing anew to who was told already", async () => {
    const world = new World();
    const { told } = await world.room("lobby", { head: 5 });
    world.socket.says(message(6));
    world.carillon.room("lobby", { last: 50 });
    await settled();
    assert.equal(world.socket.of("join").length, 1);
    world.socket.says(message(7));
    assert.deepEqual(told.messages, offsets(6, 7));
  });

  it("have the room reload", async () => {
    const world = new World();
    await world.room("lobby", { head: 9 });
    const reloaded = [];
    world.carillon.room("lobby", { reload: ({ reason }) => void reloaded.push(reason) });
    world.carillon.room("lobby");
    await world.broken();
    world.answer("join", { type: "joined", offset: 5, epoch: "e2", recovered: false, reason: "epoch" });
    await settled();
    assert.deepEqual(reloaded, ["epoch"]);
  });
});

describe("resuming", () => {
  it("asks for what came since, in the life of the room that it knows", async () => {
    const world = new World();
    const { room, told } = await world.room("lobby", { head: 1 });
    world.socket.says(message(2));
    await world.broken();
    assert.equal(room.state, "joining");
    const { since, epoch, last } = world.socket.last("join");
    assert.deepEqual({ since, epoch, last }, { since: 2, epoch: "e1", last: undefined });
    world.answer("join", { type: "joined", offset: 4, epoch: "e1", recovered: true });
    world.socket.says(message(3), message(4), message(5));
    assert.deepEqual(told.messages, offsets(2, 5));
    assert.deepEqual(told.gaps, []);
  });

  it("shows nothing twice, whatever is repeated", async () => {
    const world = new World();
    const { told } = await world.room();
    world.socket.says(message(1, "m1", { epoch: "e1" }), message(1, "m1", { epoch: "e1" }), message(2), message(1), own(2), message(3));
    assert.deepEqual(told.messages, offsets(1, 3));
  });

  it("counts nothing between `connected` and `joined`", async () => {
    const world = new World();
    const { told } = await world.room("user:ada", { head: 1 });
    await world.broken();
    world.socket.says(message(5, "m5", { room: "user:ada" })); // The personal room is there without asking.
    world.answer("join", { type: "joined", offset: 5, epoch: "e1", recovered: true });
    for (const offset of [2, 3, 4, 5]) world.socket.says(message(offset, `m${offset}`, { room: "user:ada" }));
    assert.deepEqual(told.messages, offsets(2, 5));
  });

  it("fills a hole, should there ever be one", async () => {
    const world = new World();
    const { told } = await world.room("lobby", { head: 1 });
    world.socket.says(message(2), message(4), message(5));
    assert.equal(world.socket.last("join").since, 2);
    world.answer("join", { type: "joined", offset: 5, epoch: "e1", recovered: true });
    world.socket.says(message(3), message(4), message(5), message(6));
    assert.deepEqual(told.messages, offsets(2, 6));
  });

  it("has the epoch from the first message of a life", async () => {
    const world = new World();
    const { room } = await world.room();
    world.socket.says(message(1, "m1", { epoch: "e7" }));
    assert.deepEqual(room.position, { offset: 1, epoch: "e7" });
  });
});

describe("a gap", () => {
  it("where retention took messages names them, and the rest is told", async () => {
    const world = new World();
    const { told } = await world.room("lobby", { head: 1 });
    world.socket.says(message(2));
    await world.broken();
    world.answer("join", { type: "joined", offset: 90, epoch: "e1", recovered: false, reason: "trimmed" });
    await settled();
    world.socket.says(message(91)); // Live already; it comes again with the rest.
    const { after, limit } = world.socket.last("history");
    assert.deepEqual({ after, limit }, { after: 2, limit: 1 });
    world.answer("history", { type: "history", messages: [message(80)], more: true, epoch: "e1" });
    assert.equal(world.socket.last("join").since, 79);
    world.answer("join", { type: "joined", offset: 91, epoch: "e1", recovered: true });
    for (let offset = 80; offset <= 92; offset += 1) world.socket.says(message(offset));
    assert.deepEqual(told.gaps, [{ room: "lobby", reason: "trimmed", after: 2, before: 80, epoch: "e1" }]);
    assert.deepEqual(told.messages, [...offsets(2, 2), ...offsets(80, 92)]);
  });

  it("reaches up to the head where history may not be read", async () => {
    const world = new World();
    const { told } = await world.room("lobby", { head: 2 });
    await world.broken();
    world.answer("join", { type: "joined", offset: 90, epoch: "e1", recovered: false, reason: "trimmed" });
    await settled();
    world.answer("history", { type: "error", code: "forbidden", message: "" });
    world.answer("join", { type: "joined", offset: 91, epoch: "e1", recovered: true });
    world.socket.says(message(91));
    assert.deepEqual(told, { messages: offsets(91, 91), gaps: [{ room: "lobby", reason: "trimmed", after: 2, before: 91, epoch: "e1" }] });
  });

  it("where the room began another life tells that life from its start", async () => {
    const world = new World();
    const { told } = await world.room("lobby", { head: 9 });
    await world.broken();
    world.answer("join", { type: "joined", offset: 2, epoch: "e2", recovered: false, reason: "epoch" });
    await settled();
    const { since, epoch } = world.socket.last("join");
    assert.deepEqual({ since, epoch }, { since: 0, epoch: "e2" });
    world.answer("join", { type: "joined", offset: 2, epoch: "e2", recovered: true });
    world.socket.says(message(1, "m1", { epoch: "e2" }), message(2));
    assert.deepEqual(told, { messages: offsets(1, 2), gaps: [{ room: "lobby", reason: "epoch", after: 9, before: 1, epoch: "e2" }] });
  });

  it("another life that begins before our eyes is one", async () => {
    const world = new World();
    const { told } = await world.room("lobby", { head: 9 });
    world.socket.says(message(1, "m1", { epoch: "e2" }), message(2));
    await settled();
    world.answer("join", { type: "joined", offset: 2, epoch: "e2", recovered: true });
    world.socket.says(message(1, "m1", { epoch: "e2" }), message(2));
    assert.deepEqual(told.messages, offsets(1, 2));
    assert.equal(told.gaps.length, 1);
  });

  it("that the server tells unasked is one", async () => {
    const world = new World();
    const { told } = await world.room("lobby", { head: 9 });
    world.socket.says({ type: "joined", room: "lobby", offset: 1, epoch: "e2", recovered: false, reason: "epoch" });
    await settled();
    world.answer("join", { type: "joined", offset: 1, epoch: "e2", recovered: true });
    world.socket.says(message(1, "m1", { epoch: "e2" }));
    assert.deepEqual([told.messages, told.gaps.length], [offsets(1, 1), 1]);
  });

  it("waits for the app's own reload, and goes on from where that is", async () => {
    const world = new World();
    let reloaded;
    const gaps = [];
    const reload = (gap) => new Promise((resolve) => {
      gaps.push(gap);
      reloaded = resolve;
    });
    const { told } = await world.room("lobby", { head: 9, options: { reload } });
    await world.broken();
    world.answer("join", { type: "joined", offset: 5, epoch: "e2", recovered: false, reason: "epoch" });
    await settled();
    world.socket.says(message(6));
    await world.broken(); // The connection comes and goes meanwhile.
    assert.equal(world.socket.of("join").length, 0);
    reloaded({ offset: 4, epoch: "e2" });
    await settled();
    assert.equal(world.socket.last("join").since, 4);
    world.answer("join", { type: "joined", offset: 6, epoch: "e2", recovered: true });
    world.socket.says(message(5), message(6));
    assert.deepEqual(told.messages, offsets(5, 6));
    assert.equal(gaps.length, 1);
  });

  it("a reload that fails is called again, and nothing is told before it worked", async () => {
    const world = new World();
    const attempts = [];
    const { told, room } = await world.room("lobby", { head: 9, options: { reload: () => {
      attempts.push(world.clock.time);
      if (attempts.length < 3) throw new Error("the backend is away");
      return { offset: 1, epoch: "e2" };
    } } });
    await world.broken();
    world.answer("join", { type: "joined", offset: 2, epoch: "e2", recovered: false, reason: "epoch" });
    await settled();
    assert.deepEqual([room.state, room.error?.code, room.error?.message], ["joining", "reload_failed", "Error: the backend is away"]);
    await world.broken(); // The connection comes and goes meanwhile.
    assert.equal(world.socket.of("join").length, 0);
    await world.clock.pass(500);
    await world.clock.pass(1_000);
    assert.deepEqual(attempts.map((time) => time - attempts[0]), [0, 500, 1_500]);
    assert.equal(world.socket.last("join").since, 1);
    world.answer("join", { type: "joined", offset: 2, epoch: "e2", recovered: true });
    world.socket.says(message(2));
    assert.deepEqual([told.messages, room.state, room.error], [offsets(2, 2), "live", undefined]);
  });

  it("a reload that fails is not called again once the room was left", async () => {
    const world = new World();
    let attempts = 0;
    const { room } = await world.room("lobby", { head: 9, options: { reload: () => Promise.reject(new Error(`no ${(attempts += 1)}`)) } });
    await world.broken();
    world.answer("join", { type: "joined", offset: 2, epoch: "e2", recovered: false, reason: "epoch" });
    await settled();
    room.leave();
    await world.clock.pass(60_000);
    assert.equal(attempts, 1);
  });

  it("after gap after gap goes on from the head", async () => {
    const world = new World();
    const { told, room } = await world.room("lobby", { head: 9 });
    await world.broken();
    const { length } = world.socket.of("join");
    for (let n = 0; n < 4; n += 1) {
      world.answer("join", { type: "joined", offset: 20, epoch: "e2", recovered: false, reason: "epoch" });
      await settled();
    }
    assert.equal(world.socket.of("join").length, length + 3);
    assert.equal(room.state, "live");
    world.socket.says(message(21));
    assert.deepEqual(told.messages, offsets(21, 21));
  });
});

describe("one's own messages", () => {
  it("of another life of the app are read from the history, in their place", async () => {
    const world = new World();
    const { room, told } = await world.room("lobby", { head: 4, options: { last: 3 } });
    world.socket.says(message(2), own(3, "k"), message(4));
    const { after } = world.socket.last("history");
    assert.equal(after, 2);
    world.socket.says(message(5)); // Not counted now: a join follows that covers it.
    world.answer("history", { type: "history", messages: [message(3, "mine", { sender: "ada" }), message(4)], more: false, epoch: "e1" });
    assert.equal(world.socket.last("join").since, 4);
    world.answer("join", { type: "joined", offset: 5, epoch: "e1", recovered: true });
    world.socket.says(message(5));
    assert.deepEqual(told.messages, ["2 m2", "3 mine", "4 m4", "5 m5"]);
    assert.equal(room.state, "live");
  });

  it("come like all others where history may not be read", async () => {
    const world = new World();
    const { told } = await world.room("lobby", { head: 1, options: { last: 3 } });
    world.socket.says(own(1, "k"));
    world.answer("history", { type: "error", code: "forbidden", message: "" });
    const { since, echo } = world.socket.last("join");
    assert.deepEqual({ since, echo }, { since: 0, echo: true });
    world.answer("join", { type: "joined", offset: 1, epoch: "e1", recovered: true });
    world.socket.says(message(1, "mine", { sender: "ada" }));
    assert.deepEqual(told.messages, ["1 mine"]);
  });

  it("are marked as such", async () => {
    const world = new World();
    const { room } = await world.room();
    const marked = [];
    room.on("message", ({ own, sender }) => marked.push([sender, own]));
    world.socket.says(message(1, 1, { epoch: "e1" }), message(2, 2, { sender: "ada" }));
    assert.deepEqual(marked, [["grace", false], ["ada", true]]);
  });
});

describe("the loop", () => {
  it("gets every message once, and ends when the room is left", async () => {
    const world = new World();
    const room = world.carillon.room("lobby");
    const got = [];
    const looping = (async () => {
      for await (const { offset } of room) got.push(offset);
    })();
    await world.connected();
    world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true });
    world.socket.says(message(1), message(2));
    await settled();
    world.socket.says(message(3));
    await settled();
    room.leave();
    await looping;
    assert.deepEqual(got, [1, 2, 3]);
  });

  it("throws why it can't go on", async () => {
    const world = new World();
    const room = world.carillon.room("lobby");
    const looping = outcomeOf((async () => {
      for await (const _ of room);
    })());
    await world.connected();
    world.socket.closes(4003, "forbidden");
    await settled();
    assert.equal(looping.error.code, "forbidden");
  });

  it("ends also where it begins when all has ended", async () => {
    const loop = async (room) => {
      for await (const _ of room);
    };
    const world = new World();
    const { room } = await world.room();
    world.socket.closes(4003, "forbidden");
    await assert.rejects(loop(room), { code: "forbidden" });
    await assert.rejects(loop(world.carillon.room("other")), { code: "forbidden" });
    world.carillon.close();
    await loop(room);

    const another = new World();
    const secret = another.carillon.room("secret");
    secret.join();
    await another.connected();
    another.answer("join", { type: "error", code: "forbidden", message: "not yours" });
    await assert.rejects(loop(secret), { code: "forbidden", message: "not yours" });
  });

  it("that is read too slowly ends", async () => {
    const world = new World();
    const { room } = await world.room();
    const loop = room[Symbol.asyncIterator]();
    const first = loop.next();
    for (let offset = 1; offset <= 10_002; offset += 1) world.socket.says(message(offset));
    await first;
    let read = 1;
    await assert.rejects(async () => {
      for await (const _ of loop) read += 1;
    }, { code: "slow_consumer" });
    assert.equal(read, 10_001);
  });
});

describe("presence", () => {
  it("is kept up to date", async () => {
    const world = new World();
    const room = world.carillon.room("lobby");
    const seen = [];
    room.on("presence", ({ count, members, truncated }) => seen.push(`${count} ${members.map(({ userId }) => userId)}${truncated ? " …" : ""}`));
    await world.connected();
    world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true, members: [{ userId: "ada", connections: 1 }] });
    world.socket.says({ type: "userJoined", room: "lobby", user: { id: "grace", info: { name: "Grace" } }, count: 2 });
    assert.deepEqual(room.present.members[1], { userId: "grace", info: { name: "Grace" } });
    world.socket.says({ type: "userLeft", room: "lobby", user: { id: "ada" }, count: 1 });
    world.socket.says({ type: "userJoined", room: "lobby", user: { id: "linus" }, count: 300 });
    assert.deepEqual(seen, ["1 ada", "2 ada,grace", "1 grace", "300 grace,linus …"]);
  });

  it("may be wanted later: the room is joined again, without a gap", async () => {
    const world = new World();
    const { room } = await world.room("lobby", { head: 3 });
    room.on("userJoined", () => {});
    await settled();
    const { since, presence } = world.socket.last("join");
    assert.deepEqual({ since, presence }, { since: 3, presence: true });
  });

  it("counts all where not all are named", async () => {
    const world = new World();
    const room = world.carillon.room("lobby");
    const counts = [];
    room.on("presence", ({ count, members, truncated }) => counts.push([count, members.length, truncated]));
    await world.connected();
    const members = Array.from({ length: 200 }, (_, n) => ({ userId: `u${n}`, connections: 1 }));
    world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true, members, truncated: true });
    world.answer("presence", { type: "presence", count: 100_000, members, truncated: true });
    await settled();
    assert.deepEqual(counts.at(-1), [100_000, 200, true]);
    world.socket.says({ type: "userLeft", room: "lobby", user: { id: "u7" }, count: 99_999 });
    assert.deepEqual(counts.at(-1), [99_999, 199, true]);
  });

  it("is still watched when the room is joined again, for as long as somebody listens", async () => {
    const world = new World();
    const { room } = await world.room("lobby", { head: 3 });
    const unlisten = room.on("presence", () => {});
    await settled();
    room.leave();
    room.join();
    await settled();
    assert.equal(world.socket.last("join").presence, true);
    unlisten();
    room.leave();
    room.join();
    await settled();
    assert.equal(world.socket.last("join").presence, false);
  });

  it("can be asked for once", async () => {
    const world = new World();
    await world.connected();
    const asked = outcomeOf(world.carillon.room("lobby").presence());
    world.answer("presence", { type: "presence", count: 1, members: [{ userId: "ada", connections: 2 }] });
    await settled();
    assert.deepEqual(asked.value, { count: 1, members: [{ userId: "ada", connections: 2 }], truncated: false });
    assert.equal(world.socket.of("join").length, 0);
  });
});

describe("history", () => {
  it("is asked again over a new connection, and after errors that pass", async () => {
    const world = new World();
    const asked = outcomeOf(world.carillon.room("lobby").history({ before: 9, limit: 2 }));
    await world.connected();
    await world.broken();
    world.answer("history", { type: "error", code: "rate_limited", message: "", retryAfterMs: 50 });
    await world.clock.pass(50);
    const { type, room, before, limit } = world.socket.last("history");
    assert.deepEqual({ type, room, before, limit }, { type: "history", room: "lobby", before: 9, limit: 2 });
    assert.equal(world.socket.of("history").length, 2);
    world.answer("history", { type: "history", messages: [message(7), message(8, "mine", { sender: "ada" })], more: true, epoch: "e1" });
    await settled();
    assert.equal(asked.value.more, true);
    assert.deepEqual(asked.value.messages.map(({ offset, own }) => [offset, own]), [[7, false], [8, true]]);
  });

  it("that is not allowed rejects", async () => {
    const world = new World();
    await world.connected();
    const asked = outcomeOf(world.carillon.room("lobby").history());
    world.answer("history", { type: "error", code: "forbidden", message: "no" });
    await settled();
    assert.deepEqual([asked.error.name, asked.error.code, asked.error.message], ["CarillonError", "forbidden", "no"]);
  });
});

it("ephemeral messages are told apart, and dropped without a connection", async () => {
  const world = new World();
  const { room, told } = await world.room();
  const seen = [];
  room.on("ephemeral", ({ payload, sender }) => seen.push([payload, sender]));
  world.socket.says({ type: "message", room: "lobby", payload: { typing: true }, sender: "grace", ts: 1, ephemeral: true });
  assert.deepEqual(seen, [[{ typing: true }, "grace"]]);
  assert.deepEqual(told.messages, []);
  assert.equal(room.ephemeral("x"), true);
  assert.deepEqual(world.socket.last("broadcast"), { type: "broadcast", room: "lobby", ephemeral: true, payload: "x" });
  world.socket.closes(1006);
  assert.equal(room.ephemeral("y"), false);
});

it("a listener that throws ends nothing", async (test) => {
  const uncaught = [];
  const others = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => uncaught.push(error.message));
  test.after(() => {
    process.removeAllListeners("uncaughtException");
    for (const other of others) process.on("uncaughtException", other);
  });
  const world = new World();
  const { room, told } = await world.room();
  room.on("message", () => {
    throw new Error("a mistake");
  });
  world.socket.says(message(1), message(2));
  await settled();
  assert.deepEqual(told.messages, offsets(1, 2));
  assert.deepEqual(uncaught, ["a mistake", "a mistake"]);
});

it("an acknowledgement comes in the message's place", async () => {
  const world = new World();
  const { room, told } = await world.room();
  const published = outcomeOf(room.publish("mine"));
  await settled();
  world.answer("broadcast", ack(1));
  world.socket.says(message(2));
  await settled();
  assert.deepEqual(told.messages, ["1 mine", "2 m2"]);
  assert.equal(published.value.offset, 1);
});
