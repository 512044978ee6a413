// When a client comes back, when it stops, and with which token.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { it, describe } from "node:test";
import { FakeSocket, World, outcomeOf, settled, tokenOf } from "./fake.js";

const codes = JSON.parse(readFileSync(new URL("../../../proto/vectors/codes.json", import.meta.url), "utf8"));

describe("the handshake", () => {
  it("carries token and client id where no proxy logs the token", async () => {
    const world = new World({ url: "https://live.example/base/", token: "a.b.c" });
    await world.connected();
    assert.equal(world.socket.url, "wss://live.example/base/ws?client=c");
    assert.deepEqual(world.socket.protocols, ["carillon.v1", "carillon.token.a.b.c"]);
  });

  it("connects when it is first needed, and not before", async () => {
    const world = new World();
    await world.clock.pass(60_000);
    assert.equal(world.sockets.length, 0);
    world.carillon.room("lobby").join();
    await settled();
    assert.deepEqual([world.sockets.length, world.connection.state], [1, "connecting"]);
  });

  it("that is swallowed is not waited for as long where there is another way, and that is taken at once", async () => {
    for (const [passMs, isClosed] of [[6_000, false], [5_000, true]]) {
      const asked = [];
      const world = new World({ fallback: true, token: tokenOf({ sub: "ada" }), fetch: (url) => (asked.push([String(url), world.clock.time]), new Promise(() => {})) });
      world.carillon.connect();
      await world.clock.pass(passMs);
      if (isClosed) world.socket.closes(1006);
      for (let n = 0; n < 1_000 && !asked.length; n += 1) await world.clock.pass(0).then(() => new Promise((resolve) => setTimeout(resolve, 1)));
      assert.deepEqual([world.connection.transport, world.sockets.length, world.sockets[0].isClosed || isClosed], ["sse", 1, true]);
      assert.equal(asked[0][1] - 1_000_000_000_000, passMs);
      world.carillon.close();
    }
  });

  it("is given up after ten seconds", async () => {
    const world = new World();
    world.carillon.connect();
    await world.clock.pass(9_999);
    assert.equal(world.connection.state, "connecting");
    await world.clock.pass(1);
    assert.equal(world.connection.state, "waiting");
    assert.ok(world.sockets[0].isClosed);
  });

  it("stops where the token can't be one", async () => {
    const world = new World({
      WebSocket: class {
        constructor() {
          throw new SyntaxError("bad subprotocol");
        }
      },
    });
    world.carillon.connect();
    await settled();
    assert.deepEqual([world.connection.state, world.connection.error.code], ["stopped", "unauthorized"]);
  });

  it("says so where there is no WebSocket", async () => {
    if (globalThis.WebSocket) return;
    const world = new World({ WebSocket: undefined });
    world.carillon.connect();
    await settled();
    assert.deepEqual([world.connection.state, world.connection.error.code], ["stopped", "unsupported"]);
  });
});

describe("after a close", () => {
  const all = [...codes.closes, ...codes.otherCloses];
  for (const { code, reason = "", then, retryMs } of all) {
    it(`${code} ${reason}: ${then}`, async () => {
      const world = new World();
      await world.connected();
      world.clock.chance = 0.75;
      world.socket.closes(code, reason);
      assert.equal(world.connection.state, then === "stop" ? "stopped" : "waiting");
      if (then === "stop") {
        await world.clock.pass(3_600_000);
        assert.equal(world.sockets.length, 1, "it does not come back");
        assert.equal(world.connection.error.closeCode, code);
        return;
      }
      const delayMs = then === "return" ? (retryMs ?? 750) : 750;
      assert.equal(world.connection.retryAt, world.clock.time + delayMs);
      await world.clock.pass(delayMs - 1);
      assert.equal(world.sockets.length, 1);
      await world.clock.pass(1);
      assert.equal(world.sockets.length, 2);
    });
  }

  it("the delay that `draining` told holds where the close has none", async () => {
    const world = new World();
    await world.connected();
    world.socket.says({ type: "draining", retryAfterMs: 321 });
    world.socket.closes(4200);
    assert.equal(world.connection.retryAt, world.clock.time + 321);
  });

  for (const [chance, name] of [[0, "none"], [0.9375, "nearly all"], [0.5, "half"]]) {
    it(`waits ${name} of 1, 2, 4, … 30 s`, async () => {
      const world = new World();
      world.clock.chance = chance;
      world.carillon.connect();
      await settled();
      for (const ceilingMs of [1, 2, 4, 8, 16, 30, 30, 30].map((seconds) => seconds * 1_000)) {
        const { length } = world.sockets;
        world.socket.closes(1006);
        assert.equal(world.connection.retryAt - world.clock.time, chance * ceilingMs);
        await world.clock.pass(chance * ceilingMs);
        assert.equal(world.sockets.length, length + 1);
      }
    });
  }

  it("the backoff starts anew only after a stable connection", async () => {
    const world = new World();
    world.carillon.connect();
    await settled();
    for (const [livedMs, delayMs] of [[9_999, 500], [9_999, 1_000], [10_000, 500]]) {
      await world.connected();
      await world.clock.pass(livedMs);
      world.socket.closes(1006);
      assert.equal(world.connection.retryAt - world.clock.time, delayMs);
      await world.clock.pass(delayMs);
    }
  });

  it("`maxRetries` attempts in a row are the last", async () => {
    const world = new World({ maxRetries: 10 });
    const published = outcomeOf(world.carillon.room("lobby").publish("x"));
    await settled();
    while (world.connection.state !== "stopped") {
      world.socket.closes(1006);
      await world.clock.pass(30_000);
    }
    assert.equal(world.sockets.length, 11);
    assert.equal(world.connection.error.code, "gave_up");
    assert.equal(published.error.code, "gave_up");
    await world.connected();
    assert.equal(world.connection.state, "connected", "a person may try again");
  });

  it("`connect()` does not wait for the next attempt", async () => {
    const world = new World();
    await world.connected();
    world.socket.closes(4100, "over_capacity");
    await world.connected();
    await world.clock.pass(30_000);
    assert.equal(world.sockets.length, 2, "nor does the attempt come as well");
    assert.deepEqual(world.states, ["connecting", "connected", "waiting", "connecting", "connected"]);
  });

  it("a dropped connection stays away as long as asked", async () => {
    const world = new World();
    await world.connected();
    world.connection.drop(5_000);
    assert.ok(world.socket.isClosed);
    await world.clock.pass(4_999);
    assert.equal(world.sockets.length, 1);
    await world.clock.pass(1);
    assert.equal(world.sockets.length, 2);
  });

  it("what a given-up socket still says is not heard", async () => {
    const world = new World();
    const first = await world.connected();
    const { onclose, onmessage } = first;
    world.connection.drop();
    await world.clock.pass(0);
    onmessage({ data: '{"type":"draining","retryAfterMs":1}' });
    onclose.call(first, { code: 4001, reason: "unauthorized" });
    assert.equal(first.onmessage, null);
  });

  it("`close()` is for good", async () => {
    const world = new World();
    await world.connected();
    const asked = outcomeOf(world.carillon.room("lobby").history());
    const published = outcomeOf(world.carillon.room("lobby").publish(1));
    world.carillon.close();
    await settled();
    assert.equal(world.connection.state, "closed");
    assert.equal(asked.error.code, "closed");
    assert.deepEqual([published.error.code, published.error.outcome], ["closed", "unknown"]);
    world.carillon.connect();
    await world.clock.pass(60_000);
    assert.equal(world.sockets.length, 1);
    await assert.rejects(world.carillon.room("lobby").publish(1), { code: "closed" });
  });
});

describe("a silent connection", () => {
  it("is asked after 25 s, and given up 10 s later", async () => {
    const world = new World();
    await world.connected();
    await world.clock.pass(25_000);
    assert.equal(world.socket.of("ping").length, 1);
    await world.clock.pass(9_999);
    assert.equal(world.connection.state, "connected");
    await world.clock.pass(1);
    assert.equal(world.connection.state, "waiting");
  });

  it("lives on when anything comes", async () => {
    const world = new World();
    await world.connected();
    for (let n = 0; n < 10; n += 1) {
      await world.clock.pass(25_000);
      world.socket.says({ type: "pong" });
    }
    assert.equal(world.connection.state, "connected");
  });
});

describe("a page", () => {
  /** A page that can be looked at, and a network that comes and goes. */
  function surroundings(test) {
    const place = new EventTarget();
    const page = Object.assign(new EventTarget(), { visibilityState: "visible" });
    const add = place.addEventListener.bind(place);
    Object.assign(globalThis, { document: page, addEventListener: add });
    test.after(() => {
      delete globalThis.document;
      delete globalThis.addEventListener;
    });
    return {
      network: (what) => place.dispatchEvent(new Event(what)),
      look: (state) => {
        page.visibilityState = state;
        page.dispatchEvent(new Event("visibilitychange"));
      },
    };
  }

  it("comes back at once when the network does", async (test) => {
    const { network } = surroundings(test);
    const world = new World();
    world.carillon.connect();
    await settled();
    for (let n = 0; n < 6; n += 1) {
      world.socket.closes(1006);
      await world.clock.pass(world.connection.retryAt - world.clock.time);
    }
    world.socket.closes(1006);
    network("online");
    await settled();
    assert.equal(world.sockets.length, 8);
  });

  it("that lost its network asks at once whether its socket is dead, and tries nothing while it is known to be gone", async (test) => {
    const { network } = surroundings(test);
    const world = new World();
    await world.connected();
    network("offline");
    assert.equal(world.socket.of("ping").length, 1);
    Object.defineProperty(globalThis, "navigator", { value: { onLine: false }, configurable: true, writable: true });
    test.after(() => delete globalThis.navigator);
    await world.clock.pass(4_000);
    assert.equal(world.connection.state, "waiting");
    network("offline");
    await settled();
    assert.equal(world.sockets.length, 1);
    globalThis.navigator.onLine = true;
    network("online");
    await settled();
    assert.equal(world.sockets.length, 2);
  });

  it("that is looked at again finds out soon that its socket is dead", async (test) => {
    const { look } = surroundings(test);
    const world = new World();
    await world.connected();
    look("hidden");
    assert.equal(world.socket.of("ping").length, 0);
    look("visible");
    assert.equal(world.socket.of("ping").length, 1);
    await world.clock.pass(4_000);
    assert.equal(world.connection.state, "waiting");
  });

  it("does not cut short a delay that the server told", async (test) => {
    const { look } = surroundings(test);
    const world = new World();
    await world.connected();
    world.socket.closes(4200, "draining retry_ms=900");
    look("visible");
    await world.clock.pass(899);
    assert.equal(world.sockets.length, 1);
  });

  it("listens no more once it is closed", async (test) => {
    const { network } = surroundings(test);
    const world = new World();
    await world.connected();
    world.carillon.close();
    network("online");
    await world.clock.pass(60_000);
    assert.equal(world.sockets.length, 1);
  });
});

describe("a token", () => {
  /** A backend that hands out tokens of so many seconds, and counts. */
  function backend(world, seconds, { skewMs = 0 } = {}) {
    const tokens = [];
    return { tokens, issue: () => {
      const iat = Math.floor((world().clock.time + skewMs) / 1_000);
      tokens.push(tokenOf({ sub: "ada", iat, exp: iat + seconds }));
      return tokens.at(-1);
    } };
  }
  const shown = (socket) => socket.protocols[1].replace("carillon.token.", "");

  it("is used for as long as it lives", async () => {
    let world;
    const { tokens, issue } = backend(() => world, 3_600);
    world = new World({ token: issue });
    await world.connected();
    await world.broken();
    assert.equal(tokens.length, 1);
    world.socket.closes(1006);
    world.clock.sleep(3_596_000);
    await world.connected();
    assert.equal(tokens.length, 2, "one that is over when it arrives is not shown");
    assert.equal(shown(world.socket), tokens[1]);
  });

  it("of a clock that is behind is still known to be over", async () => {
    let world;
    const { tokens, issue } = backend(() => world, 60, { skewMs: 3_600_000 });
    world = new World({ token: issue });
    await world.connected();
    world.socket.closes(1006);
    world.clock.sleep(56_000);
    await world.connected();
    assert.equal(tokens.length, 2);
  });

  it("is asked for again after 4004, and the connection comes back at once", async () => {
    let world;
    const { tokens, issue } = backend(() => world, 3_600);
    world = new World({ token: issue });
    await world.connected();
    world.socket.closes(4004, "token_expired");
    await world.clock.pass(0);
    assert.equal(shown(world.socket), tokens[1]);
    world.socket.closes(4004, "token_expired");
    assert.ok(world.connection.retryAt > world.clock.time, "but tokens that end at once don't make a storm");
  });

  it("that is a text stops at 4004, until there is another", async () => {
    const world = new World({ token: "old" });
    await world.connected();
    world.socket.closes(4004, "token_expired");
    await world.clock.pass(3_600_000);
    assert.deepEqual([world.connection.state, world.sockets.length], ["stopped", 1]);
    world.carillon.refresh("new");
    await settled();
    assert.equal(shown(world.socket), "new");
  });

  it("is renewed a minute before it ends, without a new connection", async () => {
    let world;
    const { tokens, issue } = backend(() => world, 3_600);
    world = new World({ token: issue });
    const expiresAt = world.clock.time + 3_600_000;
    await world.connected({ expiresAt });
    const seconds = async (count) => {
      for (let n = 0; n < count; n += 10) {
        await world.clock.pass(10_000);
        world.socket.says({ type: "pong" });
      }
    };
    await seconds(3_530);
    assert.equal(world.socket.of("refresh").length, 0);
    await seconds(10);
    assert.deepEqual(world.socket.of("refresh").map(({ token }) => token), [tokens[1]]);
    world.answer("refresh", { type: "refreshed", expiresAt: expiresAt + 3_540_000 });
    assert.equal(world.connection.expiresAt, expiresAt + 3_540_000);
    assert.equal(world.sockets.length, 1);
    await seconds(3_540);
    assert.equal(world.socket.of("refresh").length, 2);
  });

  it("that the server can't check now is shown again", async () => {
    let world;
    const { issue } = backend(() => world, 100);
    world = new World({ token: issue });
    await world.connected({ expiresAt: world.clock.time + 100_000 });
    world.clock.pass(25_000);
    await settled();
    world.socket.says({ type: "pong" });
    for (let n = 0; n < 6; n += 1) {
      await world.clock.pass(10_000);
      world.socket.says({ type: "pong" });
    }
    assert.equal(world.socket.of("refresh").length, 1);
    world.answer("refresh", { type: "error", code: "unavailable", message: "", retryAfterMs: 700 });
    await world.clock.pass(700);
    assert.equal(world.socket.of("refresh").length, 2);
  });

  it("of a clock that is ahead does not make a storm", async () => {
    const world = new World({ token: () => tokenOf({ exp: 1 }) });
    await world.connected({ expiresAt: 1_000 });
    await world.clock.pass(29_999);
    assert.equal(world.socket.of("refresh").length, 0);
  });

  it("that can't be had now is asked for again, with backoff", async () => {
    let asked = 0;
    const world = new World({ token: async () => {
      asked += 1;
      throw new Error("the backend is away");
    } });
    world.carillon.connect();
    await settled();
    assert.equal(world.connection.state, "waiting");
    await world.clock.pass(500);
    assert.equal(asked, 2);
    assert.match(world.connection.error.message, /the backend is away/);
  });

  const PAGE = "<html><h1>502 Bad Gateway</h1></html>";

  it("that is an error page is asked for again, with backoff, and is never shown", async () => {
    const given = [PAGE, "", undefined, "two.parts", tokenOf({ sub: "ada" })];
    let asked = 0;
    const world = new World({ token: async () => given[asked++] });
    world.carillon.connect();
    await settled();
    assert.deepEqual([world.connection.state, world.connection.error.code, world.sockets.length], ["waiting", "unavailable", 0]);
    for (const ms of [500, 1_000, 2_000, 4_000]) await world.clock.pass(ms);
    await world.connected();
    assert.deepEqual([asked, world.sockets.map(shown)], [5, [given[4]]]);
  });

  it("that can't be had for its renewal is asked for again, and the old one is good meanwhile", async () => {
    let world;
    const { tokens, issue } = backend(() => world, 100);
    let answers = () => issue();
    world = new World({ token: () => answers() });
    await world.connected({ expiresAt: world.clock.time + 100_000 });
    answers = () => PAGE;
    const seconds = async (count) => {
      for (let n = 0; n < count; n += 1) {
        await world.clock.pass(1_000);
        world.socket.says({ type: "pong" });
      }
    };
    await seconds(82);
    answers = () => Promise.reject(new Error("the backend is away"));
    await seconds(3);
    assert.deepEqual([world.connection.state, world.socket.of("refresh").length], ["connected", 0]);
    await world.broken();
    assert.equal(shown(world.socket), tokens[0], "it has 15 s left");
    world.socket.says({ type: "refreshed", ref: 0 });
    answers = () => issue();
    world.carillon.refresh();
    await settled();
    assert.deepEqual(world.socket.of("refresh").map(({ token }) => token), [tokens[1]]);
    assert.deepEqual(world.states.filter((state) => state === "stopped"), []);
  });

  it("that never comes is asked for again", async () => {
    let asked = 0;
    const world = new World({ token: () => (asked += 1) === 1 ? new Promise(() => {}) : "h.t1.s" });
    world.carillon.connect();
    await world.clock.pass(10_000);
    assert.equal(world.connection.state, "waiting");
    await world.clock.pass(500);
    assert.deepEqual([asked, world.sockets.length], [2, 1]);
    await world.connected();
    assert.equal(world.connection.state, "connected");
  });

  it("that comes late is there for the next attempt", async () => {
    let give;
    let asked = 0;
    const world = new World({ token: () => ((asked += 1), new Promise((resolve) => (give = resolve))) });
    world.carillon.connect();
    await world.clock.pass(10_000);
    give("h.late.s");
    await settled();
    await world.clock.pass(500);
    assert.deepEqual([asked, shown(world.socket)], [1, "h.late.s"]);
  });

  it("may be changed while an older one is on its way, or shown", async () => {
    let give;
    const world = new World({ token: () => new Promise((resolve) => (give = resolve)) });
    world.carillon.connect();
    await settled();
    world.carillon.refresh(() => "h.new.s");
    await settled();
    give("h.old.s");
    await settled();
    assert.deepEqual(world.sockets.map(shown), ["h.new.s"]);
    world.carillon.refresh("newer");
    await settled();
    assert.deepEqual(world.sockets.map((socket) => [shown(socket), socket.isClosed]), [["h.new.s", true], ["newer", false]]);
    await world.connected();
    await world.clock.pass(30_000);
    assert.equal(world.socket.protocols[1], "carillon.token.newer");
  });

  it("that was asked for before another one was brought is not shown after it", async () => {
    let give;
    const world = new World({ token: () => new Promise((resolve) => (give = resolve)) });
    world.carillon.connect();
    await settled();
    give("h.first.s");
    await world.connected();
    world.carillon.refresh();
    await settled();
    const giveOld = give;
    world.carillon.refresh(() => "h.new.s");
    await settled();
    giveOld("h.old.s");
    await settled();
    assert.equal(world.socket.last("refresh").token, "h.new.s");
  });

  it("null says that the user has signed out", async () => {
    const world = new World({ token: () => null });
    world.carillon.connect();
    await settled();
    assert.deepEqual([world.connection.state, world.connection.error.code, world.sockets.length], ["stopped", "unauthorized", 0]);
  });

  it("may be changed while everything goes on", async () => {
    const world = new World({ token: "old" });
    await world.connected();
    world.carillon.refresh("new");
    await settled();
    assert.equal(world.socket.last("refresh").token, "new");
  });
});

it("frames are paced to what the server allows, in order", async () => {
  const world = new World();
  await world.connected({ limits: { frameBytes: 65_536, rooms: 256, framesPerSecond: 10 } });
  const room = world.carillon.room("lobby");
  for (let n = 0; n < 25; n += 1) void room.publish(n);
  await settled();
  const count = () => world.socket.of("broadcast").length;
  assert.equal(count(), 10);
  assert.equal(room.ephemeral("dropped, since nothing is allowed now"), false);
  await world.clock.pass(1_000);
  assert.equal(count(), 20);
  await world.clock.pass(10_000);
  assert.deepEqual(world.socket.of("broadcast").map(({ payload }) => payload), Array.from({ length: 25 }, (_, n) => n));
  assert.equal(room.ephemeral("now"), true);
});

it("the socket is asked for no more than every WebSocket has", () => {
  assert.deepEqual(Object.keys(new FakeSocket("", [])).filter((name) => name.startsWith("on")), ["onopen", "onmessage", "onclose", "onerror"]);
});
