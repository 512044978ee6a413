// The demo page in a real browser, as two people use it. What happens to the network meanwhile is in survival.test.js.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Client, Server, waitFor } from "./server.js";
import { DESKTOP, PHONE, SHOWN_WITHIN_MS, Tab, launch, texts } from "./tab.js";

const LIMIT = { timeout: 300_000 };

let server;
let browser;

before(async () => {
  browser = await launch();
  server = await Server.start();
});
after(async () => {
  await browser?.close();
  await server?.remove();
});

/** The ready links, in another room, so that each test starts with an empty one. */
function linksTo(room) {
  return server.links.map((link) => {
    const [page, fragment] = link.split("#");
    const address = new URLSearchParams(fragment);
    address.set("room", room);
    return `${page}#${address}`;
  });
}

describe("the page", LIMIT, () => {
  it("brings a message to the other tab, once", async () => {
    const [ada, grace] = await Promise.all(server.links.map((link) => Tab.open(browser, link).then((tab) => tab.live())));
    assert.match(ada.page.url(), /#room=lobby$/);
    assert.ok(!ada.page.url().includes("token"), "the token is taken out of the address");
    await ada.page.waitForSelector("#empty:not([hidden])");

    const markup = '<img src="x" onerror="throw 1"> & <b>hello</b>';
    await ada.type(markup);
    assert.deepEqual(await grace.logOf(1), [{ offset: 1, own: false, text: markup }]);
    await grace.type("hello ada");
    // Grace's message has offset 2: whatever the server had to say about offset 1 came before it.
    assert.deepEqual(await ada.logOf(2), [{ offset: 1, own: true, text: markup }, { offset: 2, own: false, text: "hello ada" }]);
    assert.deepEqual(await grace.logOf(2), [{ offset: 1, own: false, text: markup }, { offset: 2, own: true, text: "hello ada" }]);

    const stored = (tab) => tab.received.filter(({ type, ephemeral }) => type === "message" && !ephemeral).map(({ offset }) => offset);
    assert.deepEqual(stored(ada), [2], "the sender gets no message for its own");
    assert.deepEqual(stored(grace), [1]);
    assert.deepEqual(ada.received.filter(({ type }) => type === "ack").map(({ offset }) => offset), [1]);
    await Promise.all([ada.close(), grace.close()]);
  });

  it("tells who is typing", async () => {
    const [ada, grace] = await Promise.all(linksTo("typing").map((link) => Tab.open(browser, link).then((tab) => tab.live())));
    await ada.page.waitForSelector("#empty:not([hidden])");
    await grace.page.waitForSelector("#empty:not([hidden])");
    await ada.page.locator("#text").pressSequentially("I was about to");
    await grace.page.getByText("ada is typing…").waitFor();
    await ada.page.press("#text", "Enter");
    assert.equal((await grace.logOf(1))[0].text, "I was about to");
    assert.equal(await grace.page.textContent("#typing"), "");
    await Promise.all([ada.close(), grace.close()]);
  });

  it("tells who is here", async () => {
    const [ada, grace] = await Promise.all(linksTo("here").map((link) => Tab.open(browser, link).then((tab) => tab.live())));
    const people = (tab) => tab.page.getByRole("list", { name: "Here" }).getByRole("listitem").allTextContents();
    const isHere = (tab, names) => waitFor(async () => (await people(tab)).join() === names, SHOWN_WITHIN_MS, () => names);
    await Promise.all([isHere(ada, "Aada,Ggrace"), isHere(grace, "Ggrace,Aada")]);
    await grace.close();
    await isHere(ada, "Aada");
    await ada.close();
  });

  it("shows what was missed after a drop", async () => {
    const [link] = linksTo("dropped");
    const ada = await (await Tab.open(browser, link)).live();
    const grace = await Client.connect(server, server.token("grace"));
    await ada.type("before");
    await ada.logOf(1);

    await ada.page.click("#drop");
    await ada.page.waitForSelector('body[data-state="waiting"]');
    // More than the page asks for when it comes for the first time: only a real resume has them all.
    const missed = Array.from({ length: 60 }, (_, n) => `missed ${n}`);
    await Promise.all(missed.map((text) => grace.ask({ type: "broadcast", room: "dropped", payload: { text } })));
    assert.equal(await ada.page.getAttribute("body", "data-state"), "waiting");
    await ada.type("written while away");
    await ada.screenshot("reconnecting");

    const all = ["before", ...missed, "written while away"];
    assert.deepEqual(texts(await ada.logOf(62)), all.map((text, index) => `#${index + 1} ${text}`));
    assert.equal(await ada.missed(), "60 messages you missed");
    const joins = ada.sent.filter(({ type, room }) => type === "join" && room === "dropped");
    const [, { epoch, recovered }] = ada.received.filter(({ type, room }) => type === "joined" && room === "dropped");
    assert.deepEqual(joins.map(({ since, epoch }) => ({ since, epoch })), [{ since: undefined, epoch: undefined }, { since: 1, epoch }]);
    assert.ok(epoch && recovered);

    await ada.page.click("#drop");
    await ada.page.click("#banner-action");
    await ada.live();
    await ada.type("back at once");
    assert.equal((await ada.logOf(63)).at(-1).text, "back at once");
    assert.equal(await ada.page.$("#log .missed"), null, "nothing was missed this time");
    grace.close();
    await ada.close();
  });

  it("has its own messages back after a reload", async () => {
    const [link] = linksTo("reloaded");
    const ada = await (await Tab.open(browser, link)).live();
    for (const text of ["one", "two"]) await ada.type(text);
    const before = await ada.logOf(2);
    await ada.page.reload();
    assert.deepEqual(await (await ada.live()).logOf(2), before);
    await ada.close();
  });

  it("counts what is unread in other rooms", async () => {
    const [link] = linksTo("reading");
    const ada = await (await Tab.open(browser, link)).live();
    const grace = await Client.connect(server, server.token("grace"));
    await waitFor(() => ada.received.some(({ type, room }) => type === "joined" && room === "support"), SHOWN_WITHIN_MS, () => "joining");
    for (const payload of [{ text: "a question" }, "plain", { any: ["JSON"] }]) await grace.ask({ type: "broadcast", room: "support", payload });
    await ada.page.getByRole("link", { name: "support 3 unread" }).click();
    assert.deepEqual((await ada.logOf(3)).map(({ text }) => text), ["a question", "plain", '{"any":["JSON"]}']);
    await ada.page.getByRole("link", { name: "support", exact: true }).waitFor();
    await ada.page.fill("#room-input", "a new one");
    await ada.page.press("#room-input", "Enter");
    await ada.page.getByRole("heading", { name: "a new one" }).waitFor();
    grace.close();
    await ada.close();
  });

  it("explains how to come in", async () => {
    const stranger = await Tab.open(browser, server.url, { ...PHONE });
    await stranger.page.getByRole("heading", { name: "It’s running. Now come in." }).waitFor();
    await stranger.screenshot("welcome");
    await stranger.page.getByLabel("Token").fill("nonsense");
    await stranger.page.getByRole("button", { name: "Enter" }).click();
    await stranger.page.getByText("This token isn’t valid, or was revoked. (4001)").waitFor();
    assert.equal(await stranger.page.getAttribute("body", "data-state"), "stopped");

    await stranger.page.getByRole("button", { name: "Use another token" }).click();
    await stranger.page.getByLabel("Token").fill(server.token("linus"));
    await stranger.page.getByRole("button", { name: "Enter" }).click();
    await stranger.live();
    await stranger.close();
  });

  it("has no barriers, in light and dark, on a phone, and with the connection gone", async () => {
    const stranger = await Tab.open(browser, server.url);
    await stranger.page.getByRole("heading", { name: "It’s running. Now come in." }).waitFor();
    assert.deepEqual(await stranger.barriers(), []);
    await stranger.close();
    const [link] = linksTo("barriers");
    for (const options of [DESKTOP, PHONE]) {
      const ada = await (await Tab.open(browser, link, { ...options, reducedMotion: "reduce" })).live();
      await ada.type("hello");
      await ada.page.getByText("hello").first().waitFor();
      for (const colorScheme of ["light", "dark"]) {
        await ada.page.emulateMedia({ colorScheme });
        assert.deepEqual(await ada.barriers(), [], colorScheme);
      }
      await ada.page.getByRole("button", { name: "Drop my connection" }).click();
      await ada.page.getByText("You’re offline.").waitFor();
      await ada.type("kept");
      assert.deepEqual(await ada.barriers(), []);
      await ada.close();
    }
  });

  it("shows on a phone who is here when asked, and takes it back", async () => {
    const ada = await (await Tab.open(browser, linksTo("phone details")[0], PHONE)).live();
    const people = ada.page.getByRole("list", { name: "Here" });
    const button = ada.page.getByRole("button", { name: "People and facts" });
    assert.equal(await people.isVisible(), false);
    await button.press("Enter");
    await people.getByText("ada").waitFor();
    await ada.page.getByText("Newest", { exact: true }).waitFor();
    assert.equal(await button.getAttribute("aria-expanded"), "true");
    for (const colorScheme of ["light", "dark"]) {
      await ada.page.emulateMedia({ colorScheme });
      assert.deepEqual(await ada.barriers(), [], colorScheme);
    }
    const width = await ada.page.evaluate(() => document.scrollingElement.scrollWidth);
    assert.ok(width <= PHONE.viewport.width, `${width} px`);
    await ada.screenshot("phone-details");
    await ada.page.keyboard.press("Escape");
    await people.waitFor({ state: "hidden" });
    assert.equal(await ada.page.evaluate(() => document.activeElement.id), "details");
    await ada.close();
  });

  it("is used with nothing but the keyboard", async () => {
    const ada = await (await Tab.open(browser, linksTo("keys")[0])).live();
    await ada.page.focus("#skip");
    await ada.page.keyboard.press("Enter");
    await ada.page.keyboard.type("without a mouse");
    await ada.page.keyboard.press("Enter");
    assert.equal((await ada.logOf(1))[0].text, "without a mouse");
    const stops = new Set();
    for (let n = 0; n < 20; n += 1) {
      await ada.page.keyboard.press("Tab");
      stops.add(await ada.page.evaluate(() => document.activeElement.id || document.activeElement.getAttribute("href")));
    }
    for (const stop of ["#room=lobby", "room-input", "drop", "scroll", "text"]) assert.ok(stops.has(stop), `${stop} of ${[...stops]}`);
    await ada.close();
  });

  it("looks like something for a website", async () => {
    const links = linksTo("launch");
    const ada = await (await Tab.open(browser, links[0])).live();
    const grace = await (await Tab.open(browser, links[1], { ...DESKTOP, colorScheme: "dark" })).live();
    let count = 0;
    const say = async (tab, ...lines) => {
      for (const line of lines) {
        await tab.type(line);
        await tab.logOf((count += 1));
      }
    };
    await say(ada, "Morning! The checklist for today is in here, so nobody has to search for it.");
    await grace.logOf(count);
    await say(grace, "Perfect, thank you.", "Which part is still open?");
    await ada.logOf(count);
    await say(ada, "Only the load test. We pull the plug in the middle of it, and see that everyone comes back with nothing missing.");
    await ada.page.click("#drop");
    await say(grace, "Numbers are in.", "Nothing lost. Not one.");
    await ada.page.click("#banner-action");
    await ada.logOf(count);
    await say(ada, "Then we ship.");
    await grace.logOf(count);
    await ada.page.locator("#text").pressSequentially("Thank you all");
    await grace.page.getByText("ada is typing…").waitFor();
    await grace.screenshot("desktop-dark");
    await ada.screenshot("desktop-light");

    const phone = await (await Tab.open(browser, links[0], { ...PHONE })).live();
    await phone.logOf(count);
    const width = await phone.page.evaluate(() => document.scrollingElement.scrollWidth);
    assert.ok(width <= PHONE.viewport.width, `the page is ${width} px wide on a phone`);
    await phone.screenshot("phone");
    await phone.page.emulateMedia({ colorScheme: "dark" });
    await phone.screenshot("phone-dark");
    await phone.type("x".repeat(300));
    await phone.logOf(count + 1);
    const wordWidth = await phone.page.evaluate(() => document.querySelector("#scroll").scrollWidth);
    assert.ok(wordWidth <= PHONE.viewport.width, `a long word makes the log ${wordWidth} px wide`);
    await Promise.all([ada, grace, phone].map((tab) => tab.close()));
  });
});
