// One room, three doors: members on a WebSocket, on Server-Sent Events and on Socket.IO, publishers on all of them and over HTTP. All
// see the same sequence, whatever door they come back by.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { Client, FRAME_WITHIN_MS, Server, waitFor } from "./server.js";
import { closeAll, connected } from "./socketio.js";

/** `CARILLON_TEST_DROPS=1000` is the long way; the seed makes a failing run happen again. */
const DROPS = Number(process.env.CARILLON_TEST_DROPS ?? 60);
const SEED = Number(process.env.CARILLON_TEST_SEED ?? 1);

function chance(seed) {
  let state = (seed * 2654435761) % 4294967296 || 1;
  return (bound) => {
    state ^= (state << 13) >>> 0;
    state = (state ^ (state >>> 17)) >>> 0;
    state = (state ^ ((state << 5) >>> 0)) >>> 0;
    return state % bound;
  };
}

/** Server-Sent Events by hand: every block that has data, and the newest id. A resume names its id by header, or `asked` for it. */
class Events {
  constructor(url, token, id, asked = false) {
    this.messages = [];
    this.controller = new AbortController();
    const headers = { authorization: `Bearer ${token}`, ...(id && !asked ? { "last-event-id": id } : {}) };
    if (id && asked) url += `&lastEventId=${encodeURIComponent(id)}`;
    this.ended = this.#read(url, headers).catch((error) => {
      if (error.name !== "AbortError") this.error = error;
    });
  }

  async #read(url, headers) {
    const answer = await fetch(url, { headers, signal: this.controller.signal });
    assert.equal(answer.status, 200);
    let rest = "";
    for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
      rest += chunk;
      for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
        const lines = rest.slice(0, end).split("\n");
        rest = rest.slice(end + 2);
        const field = (name) => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
        const [id] = field("id");
        if (id !== undefined) this.id = id;
        const [event] = field("event");
        assert.notEqual(event, "gap", rest);
        if (field("data").length) this.messages.push(JSON.parse(field("data").join("\n")));
      }
    }
  }

  async close() {
    this.controller.abort();
    await this.ended;
    if (this.error) throw this.error;
  }
}

describe("one room, three doors", () => {
  let server, token;
  before(async () => {
    server = await Server.start({
      CARILLON_LIMITS__FRAMES_PER_SECOND: "100000",
      CARILLON_LIMITS__FRAMES_BURST: "100000",
      CARILLON_LIMITS__CONNECTIONS_PER_USER: "1000",
    });
    token = server.token("ada");
  });
  afterEach(closeAll);
  after(() => server.remove());

  const events = (room, id, asked) => new Events(`${server.url}/events?room=${room}`, token, id, asked);

  /** Ways in: each says one payload and is told its offset. */
  async function publishers(room) {
    const [kind, roomId] = room.split(":");
    const native = await Client.connect(server, server.token("bob"));
    const socket = await connected(server, server.token("carol"));
    const post = async (n) => {
      const answer = await fetch(`${server.url}/rooms/${room}/messages`, {
        method: "POST",
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
        body: JSON.stringify({ payload: { n } }),
      });
      assert.equal(answer.status, 201);
      return (await answer.json()).offset;
    };
    const ways = [
      post,
      async (n) => (await native.ask({ type: "broadcast", room, payload: { n } })).offset,
      async (n) => (await socket.ask("broadcast", { room, payload: { n } })).offset,
      async (n) => (await socket.ask(`${kind}:message`, { roomId, n })).offset,
    ];
    return { ways, end: () => native.close() };
  }

  test("all members see the same sequence", async () => {
    const room = "chat:same";
    const native = await Client.connect(server, token);
    await native.ask({ type: "join", room });
    const stream = events(room);
    const plain = await connected(server, token);
    await plain.ask("join", room);
    const chat = await connected(server, token, { transports: ["polling"] });
    await chat.ask("chat:join", "same");
    await waitFor(() => stream.id, FRAME_WITHIN_MS, () => "the stream's first id");
    const { ways, end } = await publishers(room);
    const COUNT = 200;
    await Promise.all(Array.from({ length: COUNT }, (_, n) => ways[n % ways.length](n)));
    const seen = [
      () => native.of("message").map(({ offset, payload }) => [offset, payload.n]),
      () => stream.messages.map(({ offset, payload }) => [offset, payload.n]),
      () => plain.events("message").map(([{ offset, payload }]) => [offset, payload.n]),
      () => chat.events("chat:message").map(([{ offset, n }]) => [offset, n]),
    ];
    for (const of of seen) await waitFor(() => of().length === COUNT, FRAME_WITHIN_MS, () => `${COUNT} messages; got ${of().length}`);
    const [first, ...others] = seen.map((of) => of());
    assert.deepEqual(first.map(([offset]) => offset), Array.from({ length: COUNT }, (_, index) => index + 1));
    for (const other of others) assert.deepEqual(other, first);
    native.close();
    await stream.close();
    end();
  });

  test(`whoever comes back by another door ${DROPS} times has missed nothing`, async () => {
    const room = "chat:doors";
    const below = chance(SEED);
    const { ways, end } = await publishers(room);
    const seen = [];
    const take = (offset, n) => {
      // What another door showed has the same offset here.
      if (offset <= seen.length) return assert.equal(seen[offset - 1], n, `seed ${SEED}`);
      assert.equal(offset, seen.length + 1, `seed ${SEED}: a hole`);
      seen.push(n);
    };
    /** Where the last stream of events was left: its id, and the offset of the last message that it showed. */
    let left = {};
    let resumes = 0;
    // What each door keeps of its own: the offset is everybody's.
    const doors = {
      async native() {
        const client = await Client.connect(server, token);
        await client.ask({ type: "join", room, since: seen.length });
        const since = seen.length;
        return {
          since,
          messages: () => client.of("message").map(({ offset, payload }) => [offset, payload.n]),
          close: () => client.close(),
        };
      },
      async socketio() {
        const transports = [["polling"], ["websocket"], ["polling", "websocket"]][below(3)];
        const socket = await connected(server, token, { transports });
        const since = seen.length;
        await socket.ask("join", room, { since });
        return {
          since,
          messages: () => socket.events("message").map(([{ offset, payload }]) => [offset, payload.n]),
          close: () => socket.disconnect(),
        };
      },
      async recovered() {
        const socket = await connected(server, token);
        const since = seen.length;
        await socket.ask("join", room, { since });
        socket.io.engine.close();
        await socket.until("connected", 2);
        assert.equal(socket.recovered, true);
        return {
          since,
          messages: () => socket.events("message").map(([{ offset, payload }]) => [offset, payload.n]),
          close: () => socket.disconnect(),
        };
      },
      async events() {
        const before = left;
        const stream = events(room, before.id, below(2) === 0);
        await waitFor(() => stream.id, FRAME_WITHIN_MS, () => "an id");
        if (before.id === undefined) {
          // A first stream starts live: what was said before it comes from what is stored.
          const after = await fetch(`${server.url}/rooms/${room}/messages?after=${seen.length}&limit=1000`, {
            headers: { authorization: `Bearer ${token}` },
          });
          for (const { offset, payload } of (await after.json()).messages) take(offset, payload.n);
        } else if (below(2) === 0) {
          // All that the other doors have shown meanwhile comes by this one, too.
          const newest = () => stream.messages.at(-1)?.offset ?? before.offset ?? 0;
          await waitFor(() => newest() >= seen.length, FRAME_WITHIN_MS, () => `${seen.length} after ${before.offset}; got ${newest()}`);
          resumes += 1;
        }
        return {
          since: before.offset,
          messages: () => stream.messages.map(({ offset, payload }) => [offset, payload.n]),
          async close() {
            await stream.close();
            left = { id: stream.id, offset: stream.messages.at(-1)?.offset ?? before.offset };
          },
        };
      },
    };
    let said = 0;
    const say = () => ways[below(ways.length)](said++);
    for (let drop = 0; drop < DROPS; drop += 1) {
      const names = Object.keys(doors);
      const door = await doors[names[below(names.length)]]();
      const burst = Array.from({ length: 1 + below(5) }, say);
      // Sometimes it leaves in the middle.
      if (below(2) === 0) await Promise.all(burst);
      await new Promise((resolve) => setTimeout(resolve, below(20)));
      await door.close();
      const got = door.messages();
      // Nothing twice and nothing left out by one door: what came is what follows.
      const first = door.since === undefined ? got[0]?.[0] : door.since + 1;
      assert.deepEqual(got.map(([offset]) => offset), got.map((_, index) => first + index), `seed ${SEED}, drop ${drop}`);
      for (const [offset, n] of got) take(offset, n);
      await Promise.all(burst);
    }
    const last = await Client.connect(server, token);
    await last.ask({ type: "join", room, since: seen.length });
    await waitFor(
      () => seen.length + last.of("message").length >= said,
      FRAME_WITHIN_MS,
      () => `${said} messages; got ${seen.length} and ${last.of("message").length}`,
    );
    for (const { offset, payload } of last.of("message")) take(offset, payload.n);
    assert.deepEqual([...seen].sort((a, b) => a - b), Array.from({ length: said }, (_, n) => n));
    assert.ok(resumes > 0, `seed ${SEED}: no stream was resumed`);
    last.close();
    end();
  });
});
