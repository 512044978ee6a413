// The admin page in a real browser, with people and rooms to be seen: what goes on is told, and what one does there is done.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Client, Server, waitFor } from "./server.js";
import { DESKTOP, PHONE, SHOWN_WITHIN_MS, Tab, launch } from "./tab.js";

const LIMIT = { timeout: 300_000 };
const ALL = JSON.stringify([{ rooms: ["*"], can: ["admin", "history", "presence"] }]);

let server;
let browser;
const clients = [];

before(async () => {
  browser = await launch();
  server = await Server.start();
});
after(async () => {
  for (const client of clients) client.close();
  await browser?.close();
  await server?.remove();
});

/** Somebody who is in these rooms. */
async function member(name, ...rooms) {
  const client = await Client.connect(server, server.token(name));
  clients.push(client);
  for (const room of rooms) await client.ask({ type: "join", room });
  client.say = (room, text) => client.ask({ type: "broadcast", room, payload: { text } });
  return client;
}

const linkOf = (grants = ALL) => `${server.url}/admin#${new URLSearchParams({ token: server.token("root", "--grants", grants) })}`;

async function desk(options = DESKTOP) {
  const tab = await Tab.open(browser, linkOf(), options);
  return tab.live();
}

const tile = (tab, label) => tab.page.locator(".tile", { hasText: label }).locator(".figure");
const rowOf = (tab, table, name) => tab.page.getByRole("region", { name: table }).getByRole("row").filter({ hasText: name });
const shows = (locator, what) => waitFor(async () => what.test(await locator.textContent()), SHOWN_WITHIN_MS, () => `${what}`);

describe("the admin page", LIMIT, () => {
  it("tells who is here, what is said, and how fast", async () => {
    const [ada, grace] = [await member("ada", "chat:1", "chat:2"), await member("grace", "chat:1")];
    for (let n = 1; n <= 3; n += 1) await ada.say("chat:1", `message ${n}`);
    const tab = await desk();
    assert.ok(!tab.page.url().includes("token"), "the token is taken out of the address");
    await tab.page.getByRole("heading", { level: 1, name: /^\d+ connections are here, in \d+ rooms\.$/ }).waitFor();
    await shows(tile(tab, "Connections"), /^2$/);
    const room = rowOf(tab, "Rooms", "chat:1");
    await shows(room, /^chat:12#3/);
    await tab.page.getByLabel("Find").fill("AT:2");
    await waitFor(async () => (await room.count()) === 0, SHOWN_WITHIN_MS, () => "the other room to go");
    await rowOf(tab, "Rooms", "chat:2").waitFor();
    await tab.page.getByLabel("Find").fill("");
    let isEnough = false;
    const talking = (async () => {
      while (!isEnough) await Promise.all([grace.say("chat:1", "and on it goes"), new Promise((resolve) => setTimeout(resolve, 40))]);
    })();
    await shows(tile(tab, "Published"), /[1-9]/);
    await shows(tile(tab, "Delivered"), /[1-9]/);
    await shows(rowOf(tab, "Rooms", "chat:1").locator("td").last(), /[1-9]/);
    isEnough = true;
    await talking;
    await tab.page.getByRole("img", { name: /^Published a second: now .+, at most [1-9]/ }).waitFor();
    await tab.page.getByRole("img", { name: /^Until a message is stored, .+: now .+ ms and .+ ms, at most .+ ms$/ }).waitFor();
    await tab.page.getByRole("img", { name: /^Until it is with a member, .+ at most .+ ms$/ }).waitFor();
    await tab.close();
  });

  it("shows a room as it goes on", async () => {
    const ada = await member("ada", "chat:live");
    await ada.say("chat:live", "before");
    const tab = await desk();
    await tab.page.getByRole("button", { name: "chat:live" }).click();
    await tab.page.getByRole("heading", { name: "chat:live" }).waitFor();
    const said = tab.page.getByRole("list", { name: "Last messages" });
    await said.getByText("before").waitFor();
    const markup = '<img src="x" onerror="throw 1">';
    await ada.say("chat:live", markup);
    await said.getByText(markup).waitFor();
    await tab.page.getByText(/^1 here: ada$/).waitFor();

    await tab.page.getByRole("button", { name: "Delete its history…" }).click();
    await tab.page.getByRole("button", { name: "Keep it as it is" }).click();
    await said.getByText("before").waitFor();
    await tab.page.getByRole("button", { name: "Delete its history…" }).click();
    await tab.page.getByRole("button", { name: "Delete", exact: true }).click();
    await tab.page.getByText("Nothing is stored here.").waitFor();
    await ada.say("chat:live", "another life");
    await said.getByText("another life").waitFor();
    await tab.page.getByRole("button", { name: "Close" }).click();
    await said.waitFor({ state: "hidden" });
    await tab.close();
  });

  it("sends a user away, and takes a token back", async () => {
    const [eve, mallory] = [await member("eve", "door"), await member("mallory", "door")];
    const tab = await desk();
    await tab.page.getByLabel("User", { exact: true }).fill("eve");
    await rowOf(tab, "Connections", "eve").getByRole("button", { name: "Disconnect eve" }).click();
    await tab.page.getByRole("dialog", { name: "Disconnect eve?" }).getByRole("button", { name: "Disconnect", exact: true }).click();
    assert.equal((await eve.closed()).code, 4003);
    await tab.page.getByText("This user is not connected.").waitFor();
    await shows(rowOf(tab, "Why connections ended", "sent away by an admin"), /4003\s*[1-9]/);

    await tab.page.getByLabel("Name", { exact: true }).fill("mallory");
    await tab.page.getByRole("button", { name: "Revoke" }).click();
    await tab.page.getByRole("dialog", { name: "Revoke mallory?" }).getByRole("button", { name: "Revoke" }).click();
    assert.equal((await mallory.closed()).code, 4001);
    await tab.close();
  });

  it("shows a long list page by page, in the order that is wished", async () => {
    const names = Array.from({ length: 130 }, (_, n) => `list:${String(n).padStart(3, "0")}`);
    await member("lister", ...names);
    await member("guest", "list:077");
    const tab = await desk();
    await tab.page.getByLabel("Find").fill("list:");
    await rowOf(tab, "Rooms", "list:077").waitFor();
    const shown = () => tab.page.getByRole("region", { name: "Rooms" }).getByRole("rowheader").allTextContents();
    await waitFor(async () => (await shown()).length === 100, SHOWN_WITHIN_MS, () => "a page of 100 rooms");
    assert.equal((await shown())[0], "list:077", "most members first");
    const pages = tab.page.getByRole("navigation", { name: "Pages of rooms" });
    assert.ok(await pages.getByRole("button", { name: "Back" }).isDisabled());
    const first = await shown();
    await pages.getByRole("button", { name: "Further ones" }).click();
    await pages.getByText("101 to 130 of 130").waitFor();
    assert.deepEqual([...first, ...(await shown())].sort(), names);
    await pages.getByRole("button", { name: "Back" }).click();
    await pages.getByText("1 to 100 of 130").waitFor();
    await tab.page.getByLabel("First").selectOption("name");
    await waitFor(async () => (await shown())[0] === "list:000", SHOWN_WITHIN_MS, () => "rooms by name");
    await tab.page.getByLabel("Find").fill("list:12");
    await waitFor(async () => (await shown()).length === 10, SHOWN_WITHIN_MS, () => "ten rooms");
    assert.ok(await pages.isHidden());
    await tab.close();
  });

  it("is done with nothing but the keyboard", async () => {
    const zoe = await member("zoe", "keys");
    const tab = await desk();
    const { keyboard } = tab.page;
    await tab.page.getByLabel("Find").focus();
    await keyboard.type("keys");
    await rowOf(tab, "Rooms", "keys").waitFor();
    await waitFor(async () => (await tab.page.getByRole("region", { name: "Rooms" }).getByRole("rowheader").count()) === 1, SHOWN_WITHIN_MS, () => "one room");
    const focused = () => tab.page.evaluate(() => document.activeElement.textContent);
    for (let n = 0; n < 5 && (await focused()) !== "keys"; n += 1) await keyboard.press("Tab");
    await keyboard.press("Enter");
    await tab.page.getByText(/^1 here: zoe$/).waitFor();
    assert.equal(await focused(), "keys", "the room's heading has the focus");
    await tab.page.getByLabel("User", { exact: true }).focus();
    await keyboard.type("zoe");
    await waitFor(async () => (await tab.page.getByRole("button", { name: /^Disconnect/ }).count()) === 1, SHOWN_WITHIN_MS, () => "one connection");
    for (let n = 0; n < 5 && !/^Disconnect/.test(await focused()); n += 1) await keyboard.press("Tab");
    await keyboard.press("Enter");
    await tab.page.getByRole("dialog").waitFor();
    await keyboard.press("Escape");
    await tab.page.getByRole("dialog").waitFor({ state: "hidden" });
    assert.match(await focused(), /^Disconnect/, "and is back where it was");
    await keyboard.press("Enter");
    for (let n = 0; n < 3 && (await focused()) !== "Disconnect"; n += 1) await keyboard.press("Tab");
    await keyboard.press("Enter");
    assert.equal((await zoe.closed()).code, 4003);
    await tab.close();
  });

  it("holds nothing by itself, and asks nobody else", async () => {
    for (const path of ["/admin", "/admin/app.js", "/admin/style.css"]) {
      const answer = await fetch(server.url + path);
      assert.deepEqual([answer.status, answer.headers.get("x-content-type-options")], [200, "nosniff"]);
      assert.match(answer.headers.get("content-security-policy"), /default-src 'self'.*frame-ancestors 'none'/);
      const text = (await answer.text()).replaceAll("http://www.w3.org/2000/svg", "");
      assert.ok(!/https?:\/\//.test(text.replace(/href="data:[^"]*"/, "")), path);
    }
    assert.equal((await fetch(`${server.url}/admin/api/overview`)).status, 401);
    assert.equal((await fetch(`${server.url}/admin`, { method: "POST" })).status, 405);
  });

  it("opens to nobody without the grant", async () => {
    const none = JSON.stringify([{ rooms: ["*"], can: ["join", "history"] }]);
    for (const [token, why] of [["nonsense", "This token isn’t valid any more, or was revoked."], [server.token("ada", "--grants", none), "This token has no grant admin."]]) {
      const tab = await Tab.open(browser, `${server.url}/admin`);
      await tab.page.getByRole("heading", { name: "Who is asking?" }).waitFor();
      await tab.page.getByLabel("Token", { exact: true }).fill(token);
      await tab.page.getByRole("button", { name: "Enter" }).click();
      await tab.page.getByText(why).waitFor();
      assert.equal(await tab.page.evaluate(() => document.activeElement.id), "token-input");
      assert.deepEqual(await tab.barriers(), []);
      await tab.close();
    }
  });

  it("has no barriers, in light and dark, and on a phone", async () => {
    for (let n = 0; n < 8; n += 1) {
      const guest = await member(["ada", "grace", "linus", "barbara"][n % 4], "lobby", `support:${n}`);
      await guest.say("lobby", ["Is anybody here?", "We are all here.", "Then let us begin.", "After you."][n % 4]);
    }
    for (const [options, name] of [[DESKTOP, "admin"], [PHONE, "admin-phone"]]) {
      const tab = await desk(options);
      await tab.page.getByRole("button", { name: "lobby" }).click();
      await tab.page.getByText("After you.").first().waitFor();
      for (const colorScheme of ["light", "dark"]) {
        await tab.page.emulateMedia({ colorScheme });
        assert.deepEqual(await tab.barriers(), [], `${name} ${colorScheme}`);
        await tab.page.evaluate(() => scrollTo(0, 0));
        await tab.screenshot(`${name}-${colorScheme}`, { fullPage: true });
      }
      const width = await tab.page.evaluate(() => document.scrollingElement.scrollWidth);
      assert.ok(width <= options.viewport.width, `${width} px`);
      await tab.close();
    }
  });

  it("says that it is not told anything, and goes on when it is", async () => {
    const tab = await desk();
    await server.kill();
    await tab.page.getByText("No answer from the gateway; what you see is old").first().waitFor();
    await server.start();
    await tab.live();
    await tab.close();
  });
});
