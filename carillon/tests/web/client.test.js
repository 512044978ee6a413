// @carillon/client in Node, against a really started server, over networks that break and networks that allow no WebSocket.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { WebSocket } from "ws";
import { Carillon } from "../../../clients/typescript/dist/esm/index.js";
import { Proxy } from "./proxy.js";
import { Server, waitFor } from "./server.js";

const LIMIT = { timeout: 120_000 };
const WITHIN_MS = 60_000;

let server;
let proxy;
let open = [];

before(async () => {
  server = await Server.start();
  proxy = await Proxy.start(() => server.address);
});
after(async () => {
  for (const { carillon } of open) carillon.close();
  await proxy?.close();
  await server?.remove();
});

/** One person with the SDK, and the list that a page would show. */
class Person {
  list = [];
  gaps = [];

  constructor(name, room, options = {}) {
    this.name = name;
    this.carillon = new Carillon({ url: proxy.url, token: () => server.token(name), WebSocket, ...options });
    this.room = this.carillon.room(room, { since: { offset: 0, epoch: "" } });
    this.room.on("message", ({ offset, payload, sender, own }) => {
      assert.equal(own, sender === name);
      this.list.push(`${offset} ${payload}`);
    });
    this.room.on("gap", (gap) => this.gaps.push(gap));
    open.push(this);
  }

  get transport() {
    return this.carillon.connection.transport;
  }

  async live(transport) {
    const isLive = () => this.room.state === "live" && (!transport || this.transport === transport);
    await waitFor(isLive, WITHIN_MS, () => `${this.name} to be live: ${this.carillon.connection.state} ${this.room.state} ${this.transport} ${this.carillon.connection.error}`);
    return this;
  }

  async has(count) {
    await waitFor(() => this.list.length >= count, WITHIN_MS, () => `${count} messages at ${this.name}: ${this.list} ${this.carillon.connection.state} ${this.room.state}`);
    assert.deepEqual(this.gaps, []);
    return this.list;
  }
}

/** What the server itself has stored. */
async function logOf(person) {
  const log = [];
  for (let after = 0, more = true; more; after = log.length) {
    const page = await person.room.history({ after, limit: 1_000 });
    log.push(...page.messages.map(({ offset, payload }) => `${offset} ${payload}`));
    more = page.more;
  }
  return log;
}

/** Both say things while the network does its worst; at the end both have the log, and the log has all once. */
async function story(room, transport, options) {
  const [ada, grace] = [new Person("ada", room, options), new Person("grace", room, options)];
  await Promise.all([ada.live(transport), grace.live(transport)]);
  const said = [];
  const say = (person, text) => {
    const published = person.room.publish(text);
    said.push(published.then(({ offset }) => `${offset} ${text}`));
    return published;
  };
  await say(ada, "first");
  await Promise.all([say(grace, "second"), say(ada, "third")]);

  proxy.drop();
  void say(ada, "just after a drop");
  await say(grace, "also just after a drop");

  proxy.set("cut");
  for (let n = 0; n < 5; n += 1) void say(ada, `offline ${n}`);
  await waitFor(() => ada.carillon.connection.state !== "connected", WITHIN_MS, () => "ada to notice");
  proxy.set("open");
  await Promise.all(said);

  void say(ada, "just before a kill");
  void say(grace, "also just before a kill");
  await server.kill();
  void say(grace, "while it is dead");
  await server.start();

  const stored = (await Promise.all(said)).sort((a, b) => parseInt(a) - parseInt(b));
  assert.deepEqual(await ada.has(said.length), stored);
  assert.deepEqual(await grace.has(said.length), stored);
  assert.deepEqual(await logOf(ada), stored);
  assert.deepEqual([ada.transport, grace.transport], [transport, transport]);
  return { ada, grace };
}

describe("two people", LIMIT, () => {
  it("have the same list over WebSocket, whatever breaks", async () => {
    await story("over websocket", "websocket");
  });

  it("have the same list where WebSocket is blocked", async () => {
    proxy.blocksWebSocket = true;
    const { ada, grace } = await story("over sse", "sse");
    const seen = [];
    grace.room.on("ephemeral", ({ payload }) => seen.push(payload));
    ada.room.on("ephemeral", () => assert.fail("one's own ephemeral messages are not told"));
    ada.room.ephemeral("typing");
    await waitFor(() => seen.length, WITHIN_MS, () => "the ephemeral message");
    assert.deepEqual(seen, ["typing"]);
    ada.room.on("presence", () => {});
    await waitFor(() => ada.room.present?.members.length === 2, WITHIN_MS, () => JSON.stringify(ada.room.present));
    proxy.blocksWebSocket = false;
    for (const { carillon } of [ada, grace]) carillon.close();
  });

  it("talk to each other where only one of them is behind such a proxy", async () => {
    const free = await new Person("ada", "mixed", { url: server.url }).live("websocket");
    proxy.blocksWebSocket = true;
    const blocked = await new Person("grace", "mixed").live("sse");
    await free.room.publish("from the socket");
    await blocked.room.publish("over HTTP");
    await free.has(2);
    assert.deepEqual(await blocked.has(2), free.list);
    assert.deepEqual(free.list, ["1 from the socket", "2 over HTTP"]);
    proxy.blocksWebSocket = false;
    for (const { carillon } of [free, blocked]) carillon.close();
  });

  it("a room that may not be joined is refused, and hinders no other", async () => {
    proxy.blocksWebSocket = true;
    const grants = JSON.stringify([{ rooms: ["open"], can: ["join", "history", "publish"] }]);
    const person = new Person("ada", "open", { token: server.token("ada", "--grants", grants) });
    const closed = person.carillon.room("closed");
    closed.join();
    await person.live("sse");
    await waitFor(() => closed.state === "refused", WITHIN_MS, () => closed.state);
    assert.equal(closed.error.code, "forbidden");
    await assert.rejects(closed.publish("x"), { code: "forbidden" });
    await person.room.publish("still here");
    await person.has(1);
    proxy.blocksWebSocket = false;
    person.carillon.close();
  });

  it("a token that is none stops over SSE as well", async () => {
    proxy.blocksWebSocket = true;
    const carillon = new Carillon({ url: proxy.url, token: "no.token.atall", WebSocket });
    carillon.connect();
    await waitFor(() => carillon.connection.state === "stopped", WITHIN_MS, () => carillon.connection.state);
    assert.equal(carillon.connection.error.code, "unauthorized");
    proxy.blocksWebSocket = false;
  });
});
