// Two people on the demo page, and the worst that can happen between them and the server. In each case both end with the
// same list: nothing missing, nothing twice. Then all of it again where WebSocket is blocked.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { Proxy } from "./proxy.js";
import { Server, waitFor } from "./server.js";
import { BACK_WITHIN_MS, Tab, launch, texts } from "./tab.js";

const LIMIT = { timeout: 300_000 };

let browser;
before(async () => void (browser = await launch()));
after(() => browser?.close());

/** Ada and Grace have said something already; what is said from here on is counted with it. */
async function meet(come, room) {
  const [ada, grace] = await Promise.all([come("ada", room), come("grace", room)]);
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

  const come = async (name, room, token = server.token(name)) => {
    const tab = await Tab.open(browser, `${proxy.url}/#${new URLSearchParams({ token, room })}`);
    tabs.push(tab);
    return tab.live(BACK_WITHIN_MS);
  };

  it("the network goes and comes back", async () => {
    const { ada, grace } = await meet(come, `network over ${transport}`);
    await ada.context.setOffline(true);
    proxy.set("cut");
    await Promise.all([away(ada), away(grace)]);
    await ada.type("ada offline");
    await grace.type("grace offline");
    await ada.type("ada still offline");
    proxy.set("open");
    await ada.context.setOffline(false);
    await Promise.all([ada.live(BACK_WITHIN_MS), grace.live(BACK_WITHIN_MS)]);
    await agree({ ada, grace }, ["ada offline", "grace offline", "ada still offline"], `survived-network-${transport}`);
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

  it("a tab is frozen and wakes", async () => {
    const { ada, grace } = await meet(come, `frozen over ${transport}`);
    const devtools = await ada.context.newCDPSession(ada.page);
    await devtools.send("Page.setWebLifecycleState", { state: "frozen" });
    proxy.drop(); // As a network does with what is silent for long.
    await grace.live(BACK_WITHIN_MS);
    for (let n = 0; n < 3; n += 1) await grace.type(`grace ${n}`);
    await grace.logOf(5);
    await devtools.send("Page.setWebLifecycleState", { state: "active" });
    await ada.live(BACK_WITHIN_MS);
    await ada.type("ada awake");
    await agree({ ada, grace }, ["grace 0", "grace 1", "grace 2", "ada awake"], `survived-frozen-${transport}`);
  });

  it("a token ends, and another one is brought", async () => {
    const room = `token over ${transport}`;
    const grace = await come("grace", room);
    const ada = await come("ada", room, server.token("ada", "--ttl", "6s"));
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
}
