// Two people on the demo page, and the worst that can happen between them and the server. In each case both end with the
// same list: nothing missing, nothing twice. Then all of it again where WebSocket is blocked.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { Proxy } from "./proxy.js";
import { Client, Server, waitFor } from "./server.js";
import { BACK_WITHIN_MS, DESKTOP, Tab, launch, texts } from "./tab.js";

const LIMIT = { timeout: 300_000 };
/** More than the page asks for when it comes for the first time: only a real resume has them all. */
const MANY = Array.from({ length: 60 }, (_, n) => `bob ${n}`);

let browser;
before(async () => void (browser = await launch()));
after(() => browser?.close());

/** Ada and Grace have said something already; what is said from here on is counted with it. */
async function meet(come, room, options) {
  const [ada, grace] = await Promise.all([come("ada", room, options), come("grace", room, options)]);
  await ada.type("ada before");
  await grace.type("grace before");
  await Promise.all([ada.logOf(2), grace.logOf(2)]);
  return { ada, grace };
}

/** Both have the same list, and it holds exactly this. */
async function agree({ ada, grace }, said, screenshot) {
  const all = ["ada before", "grace before", ...said];
  const [hers, theirs] = await Promise.all([ada.logOf(all.length), grace.logOf(all.length)]);
  assert.deepEqual(texts(hers), texts(theirs));
  assert.deepEqual(hers.map(({ offset }) => offset), all.map((_, index) => index + 1));
  assert.deepEqual(hers.map(({ text }) => text).sort(), all.sort());
  for (const [tab, name] of [[ada, "ada"], [grace, "grace"]]) {
    for (const { own, text } of await tab.log()) assert.equal(own, text.startsWith(name), text);
  }
  await ada.screenshot(screenshot);
}

const away = (tab) => tab.page.waitForSelector('body:not([data-state="live"])', { timeout: BACK_WITHIN_MS });

// Most of the time is spent waiting for the next attempt, so both go through it side by side.
describe("two people end with the same list", { ...LIMIT, concurrency: true }, () => {
  for (const transport of ["websocket", "sse"]) describe(`over ${transport}`, { ...LIMIT, concurrency: 1 }, () => story(transport));
});

function story(transport) {
  let server;
  let proxy;
  let tabs = [];

  before(async () => {
    server = await Server.start({ CARILLON_DRAIN__WINDOW_MS: "500", CARILLON_JWT__LEEWAY_S: "1" });
    proxy = await Proxy.start(() => server.address);
    proxy.blocksWebSocket = transport === "sse";
  });
  afterEach(async () => {
    proxy.set("open");
    await Promise.all(tabs.map((tab) => tab.close()));
    tabs = [];
  });
  after(async () => {
    await proxy?.close();
    await server?.remove();
  });

  const come = async (name, room, { token = server.token(name), ...options } = {}) => {
    const tab = await Tab.open(browser, `${proxy.url}/#${new URLSearchParams({ token, room })}`, { ...DESKTOP, ...options });
    tabs.push(tab);
    return tab.live(BACK_WITHIN_MS);
  };

  /** Somebody whose network does not break. */
  async function elsewhere(what) {
    const bob = await Client.connect(server, server.token("bob"));
    const answer = await what(bob);
    bob.close();
    return answer;
  }
  const sayMany = (room) => elsewhere((bob) => Promise.all(MANY.map((text) => bob.ask({ type: "broadcast", room, payload: { text } }))));
  const isStored = (room, text) => elsewhere(async (bob) => {
    const { messages } = await bob.ask({ type: "history", room });
    return messages.some(({ payload }) => payload.text === text);
  });

  it("the network goes and comes back", async () => {
    const { ada, grace } = await meet(come, `network over ${transport}`);
    await ada.context.setOffline(true);
    proxy.set("cut");
    await Promise.all([away(ada), away(grace)]);
    await ada.type("ada offline");
    await grace.type("grace offline");
    await ada.type("ada still offline");
    await sayMany(`network over ${transport}`);
    proxy.set("open");
    await ada.context.setOffline(false);
    await Promise.all([ada.live(BACK_WITHIN_MS), grace.live(BACK_WITHIN_MS)]);
    await agree({ ada, grace }, ["ada offline", "grace offline", "ada still offline", ...MANY], `survived-network-${transport}`);
  });

  it("the server is killed and starts again", async () => {
    const { ada, grace } = await meet(come, `kill over ${transport}`);
    await Promise.all([ada.type("ada just before"), grace.type("grace just before"), server.kill()]);
    await Promise.all([away(ada), away(grace)]);
    await ada.type("ada meanwhile");
    await server.start();
    await Promise.all([ada.live(BACK_WITHIN_MS), grace.live(BACK_WITHIN_MS)]);
    await agree({ ada, grace }, ["ada just before", "grace just before", "ada meanwhile"], `survived-kill-${transport}`);
  });

  it("the server drains, and another takes its place", async () => {
    const { ada, grace } = await meet(come, `drain over ${transport}`);
    const stopping = server.stop();
    await Promise.all([ada.type("ada while it leaves"), grace.type("grace while it leaves")]);
    assert.equal(await stopping, 0);
    await Promise.all([away(ada), away(grace)]);
    await grace.type("grace meanwhile");
    await server.start();
    await Promise.all([ada.live(BACK_WITHIN_MS), grace.live(BACK_WITHIN_MS)]);
    await agree({ ada, grace }, ["ada while it leaves", "grace while it leaves", "grace meanwhile"], `survived-drain-${transport}`);
  });

  it("the answer to what was said is lost, and the server may have forgotten it when the network is back", async () => {
    const room = `unanswered over ${transport}`;
    const { ada, grace } = await meet(come, room, { hasClock: true });
    proxy.set("deaf");
    await ada.type("ada unanswered");
    await waitFor(() => isStored(room, "ada unanswered"), BACK_WITHIN_MS, () => "the server to have it");
    // Longer than any key is known: it is not to be repeated, but found in what comes next.
    await ada.page.clock.fastForward(10 * 60_000);
    // A question whether anybody is there goes unanswered as well.
    await ada.page.clock.fastForward(15_000);
    await away(ada);
    await ada.type("ada later");
    proxy.set("open");
    await Promise.all([ada.live(BACK_WITHIN_MS), grace.live(BACK_WITHIN_MS)]);
    await agree({ ada, grace }, ["ada unanswered", "ada later"], `survived-unanswered-${transport}`);
    const said = [...ada.sent, ...ada.posted].map(({ payload }) => payload?.text).filter(Boolean);
    assert.deepEqual(said, ["ada before", "ada unanswered", "ada later"]);
  });

  it("a tab is frozen and wakes", async () => {
    const { ada, grace } = await meet(come, `frozen over ${transport}`);
    const wake = await ada.freeze();
    proxy.drop(); // As a network does with what is silent for long.
    await grace.live(BACK_WITHIN_MS);
    for (let n = 0; n < 3; n += 1) await grace.type(`grace ${n}`);
    await grace.logOf(5);
    await sayMany(`frozen over ${transport}`);
    await wake();
    await ada.live(BACK_WITHIN_MS);
    await ada.type("ada awake");
    await agree({ ada, grace }, ["grace 0", "grace 1", "grace 2", ...MANY, "ada awake"], `survived-frozen-${transport}`);
  });

  it("a token ends, and another one is brought", async () => {
    const room = `token over ${transport}`;
    const grace = await come("grace", room);
    const ada = await come("ada", room, { token: server.token("ada", "--ttl", "6s") });
    await ada.type("ada before");
    await grace.logOf(1);
    await grace.type("grace before");
    await ada.page.getByText("This token has expired. (4004)").waitFor({ timeout: BACK_WITHIN_MS });
    await grace.type("grace meanwhile");
    // What is written when it has ended is not lost with it, nor with the page.
    await ada.type("ada too late");
    await ada.page.getByText("not sent: This token has expired.").waitFor();
    await ada.page.getByRole("button", { name: "Use another token" }).click();
    assert.equal(await ada.page.evaluate(() => document.activeElement.id), "token-input");
    await ada.page.getByRole("textbox", { name: "Token", exact: true }).fill(server.token("ada"));
    await ada.page.getByRole("button", { name: "Enter" }).click();
    await ada.live(BACK_WITHIN_MS);
    await agree({ ada, grace }, ["grace meanwhile", "ada too late"], `survived-token-${transport}`);
  });

  it("this way is the one that was used", async () => {
    const ada = await come("ada", "way");
    const frames = () => ada.received.length;
    if (transport === "websocket") return assert.ok(await waitFor(frames, BACK_WITHIN_MS, () => "frames"));
    assert.equal(frames(), 0);
  });

  if (transport === "sse") it("more clients than a browser has connections are all served", async () => {
    const ada = await come("ada", "crowd");
    const lists = await ada.page.evaluate(async ({ token, count }) => {
      const { Carillon } = await import("/carillon.js");
      const lists = [];
      const rooms = Array.from({ length: count }, (_, n) => {
        const room = new Carillon({ token }).room("crowd", { last: 50 });
        lists.push([]);
        room.on("message", ({ payload }) => lists[n].push(payload.text));
        return room;
      });
      const until = async (isSo) => {
        while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 50));
      };
      await until(() => rooms.every(({ state }) => state === "live"));
      await Promise.all(rooms.map((room, n) => room.publish({ text: `client ${n}` })));
      await until(() => lists.every(({ length }) => length === count));
      return lists;
    }, { token: server.token("ada"), count: 9 });
    assert.deepEqual([...lists[0]].sort(), Array.from({ length: 9 }, (_, n) => `client ${n}`));
    for (const list of lists) assert.deepEqual(list, lists[0]);
  });

  if (transport === "sse") it("WebSocket is let through again, and is gone back to", async () => {
    const { ada, grace } = await meet(come, "free again", { hasClock: true });
    assert.deepEqual([ada.received, grace.received], [[], []]);
    proxy.blocksWebSocket = false;
    const isBack = (tab) => waitFor(() => tab.received.some(({ type }) => type === "joined"), BACK_WITHIN_MS, () => "frames by WebSocket");
    // Ada's page looks for it now and then; Grace's when it connects again.
    await ada.page.clock.fastForward(31_000);
    await Promise.all([ada.type("ada on her way"), grace.type("grace still there"), isBack(ada)]);
    assert.deepEqual(grace.received, []);
    proxy.drop();
    await Promise.all([ada.type("ada again"), grace.type("grace on her way"), isBack(grace)]);
    await Promise.all([ada.live(BACK_WITHIN_MS), grace.live(BACK_WITHIN_MS)]);
    await Promise.all([ada.type("ada by WebSocket"), grace.type("grace by WebSocket")]);
    const said = ["ada on her way", "grace still there", "ada again", "grace on her way", "ada by WebSocket", "grace by WebSocket"];
    await agree({ ada, grace }, said, "survived-freedom");
    for (const tab of [ada, grace]) assert.ok(tab.sent.some(({ payload }) => /by WebSocket$/.test(payload?.text)));
    proxy.blocksWebSocket = true;
  });
}
