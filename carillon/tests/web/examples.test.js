// Every example, run as its README says, and looked at.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, it } from "node:test";
import { freePort } from "./cluster.js";
import { Shell, blocks, copyOf } from "./readme.js";
import { Server, waitFor } from "./server.js";
import { BACK_WITHIN_MS, SHOWN_WITHIN_MS, launch } from "./tab.js";

const EXAMPLES = join(import.meta.dirname, "../../../examples");
const LIMIT = { timeout: 180_000 };

let server;
let browser;
const opened = [];
const keep = (what) => (opened.push(what), what);

before(async () => {
  server = await Server.start();
  browser = await launch();
});
afterEach(async () => {
  for (const what of opened.splice(0).reverse()) await (what.end?.() ?? what.close?.() ?? what.remove?.());
});
after(async () => {
  await browser?.close();
  await server?.remove();
});

const blocksOf = (name) => blocks(join(EXAMPLES, name, "README.md"), "sh");
const sh = (script, options = {}) => keep(new Shell(server, script, { folder: EXAMPLES, ...options }));

/** The page of an example that is served by its first block, for each link that the second one prints. */
async function pages(name) {
  const [serve, links] = blocksOf(name);
  const [, address] = await sh(serve).printed(/Local:\s+(http:\S+)\//);
  const printed = await sh(links, { replace: { "http://127.0.0.1:8000": address } }).done();
  return Promise.all(printed.trim().split("\n").map(async (link) => {
    const context = keep(await browser.newContext());
    const page = await context.newPage();
    page.setDefaultTimeout(SHOWN_WITHIN_MS);
    page.link = `${link}&url=${encodeURIComponent(server.url)}`;
    await page.goto(page.link);
    return page;
  }));
}

it("chat: both have the same list, also after the server was killed", LIMIT, async () => {
  const [ada, grace] = await pages("chat");
  const say = async (page, text) => {
    await page.getByLabel("Message").fill(text);
    await page.getByRole("button", { name: "Send" }).click();
  };
  const list = (page) => page.getByRole("listitem").allTextContents();
  const shows = (page, ...lines) => waitFor(async () => (await list(page)).join() === lines.join(), BACK_WITHIN_MS, () => lines.join());
  for (const page of [ada, grace]) await page.getByText(/^connected, here: (ada, grace|grace, ada)$/).waitFor();
  await say(ada, "hello");
  await Promise.all([ada, grace].map((page) => shows(page, "ada hello")));
  await server.kill();
  await grace.getByText(/^waiting/).waitFor();
  await say(grace, "are you there?");
  await shows(grace, "ada hello", "… are you there?");
  await server.start();
  await Promise.all([ada, grace].map((page) => shows(page, "ada hello", "grace are you there?")));
});

it("cursors: moves are seen, and a cursor goes with its user", LIMIT, async () => {
  const [ada, grace] = await pages("cursors");
  await ada.mouse.move(10, 10);
  await waitFor(async () => {
    // Not stored: who was not there yet does not see it, so it is moved again.
    await grace.mouse.move(100 + Math.random() * 100, 200);
    return ada.locator(".cursor", { hasText: "grace" }).isVisible();
  }, SHOWN_WITHIN_MS, () => "grace's cursor");
  await grace.mouse.move(320, 180);
  const isThere = async () => {
    const style = await ada.locator(".cursor").getAttribute("style");
    return /left: 25%; top: 25%/.test(style);
  };
  await waitFor(isThere, SHOWN_WITHIN_MS, () => "grace's cursor where her mouse is");
  await grace.close();
  await ada.locator(".cursor").waitFor({ state: "detached" });
  const token = server.token("ada");
  const history = await fetch(`${server.url}/rooms/cursors/messages`, { headers: { Authorization: `Bearer ${token}` } });
  assert.deepEqual((await history.json()).messages, []);
});

it("notifications: what curl says arrives, also what was said while the server was away", LIMIT, async () => {
  const [ada] = await pages("notifications");
  await ada.getByText("listening").waitFor();
  const curl = blocksOf("notifications")[2];
  await sh(curl).done();
  await ada.getByText("Order 17: Your order is on its way.").waitFor();
  await server.kill();
  await ada.getByText("away, coming back").waitFor();
  await server.start();
  await sh(curl.replace('"id": 17', '"id": 18')).done();
  await ada.getByText("Order 18: Your order is on its way.").waitFor({ timeout: BACK_WITHIN_MS });
  assert.equal(await ada.getByRole("listitem").count(), 2);
});

it("server-publish: three languages, one message", LIMIT, async () => {
  const copy = keep(copyOf(join(EXAMPLES, "server-publish"), { "http://127.0.0.1:8080": server.url }));
  const [script] = blocksOf("server-publish");
  const out = await sh(script.replace(/^cd .*\n/, ""), { folder: copy.folder }).done();
  const answers = out.match(/\{.*\}/g).map((text) => JSON.parse(text));
  assert.deepEqual(answers.map(({ offset, duplicate }) => ({ offset, duplicate })), [
    { offset: 1, duplicate: undefined }, { offset: 1, duplicate: true }, { offset: 1, duplicate: true },
  ]);
  assert.deepEqual(out.match(/\b20[01]\b/g), ["201", "200", "200"]);
});

it("socketio-migration: the app as it was, and the same over Carillon", LIMIT, async () => {
  const folder = join(EXAMPLES, "socketio-migration");
  const [diff] = blocks(join(folder, "README.md"), "diff");
  const texts = ["client.js", "client-on-carillon.js"].map((name) => readFileSync(join(folder, name), "utf8"));
  const changed = (sign) => diff.split("\n").filter((line) => line[0] === sign && line[1] !== line[0]).map((line) => line.slice(1));
  assert.equal(texts[0].replace(changed("-").join("\n"), changed("+").join("\n")), texts[1], "the README shows the difference");

  const port = await freePort();
  const copy = keep(copyOf(folder, { "http://127.0.0.1:8080": server.url, 3000: String(port) }));
  const [serve, on] = blocksOf("socketio-migration");
  sh(serve.replace(/^cd .*\n/, ""), { folder: copy.folder });
  const talk = async (ada, grace, words) => {
    const both = Promise.all([ada, grace].map((client) => client.printed(`grace: ${words}`)));
    // Whoever is not in the room yet is not told: so it is said until both are.
    const saying = setInterval(() => grace.type(words), 500);
    await both.finally(() => clearInterval(saying));
  };
  const before = ["ada", "grace"].map((name) => sh("exec node client.js", { folder: copy.folder, env: { TOKEN: name } }));
  await talk(...before, "as it was");
  const [ada, grace] = ["ada", "grace"].map((name) => sh(on.replace("ada", name), { folder: copy.folder }));
  await talk(ada, grace, "over Carillon");

  await server.kill();
  await server.start();
  const backend = { Authorization: `Bearer ${server.token("linus")}`, "Content-Type": "application/json" };
  const body = JSON.stringify({ payload: { text: "said while they were away" } });
  assert.equal((await fetch(`${server.url}/rooms/chat:lobby/messages`, { method: "POST", headers: backend, body })).status, 201);
  await talk(ada, grace, "after a crash");
  for (const client of [ada, grace]) assert.equal(client.out.split("linus: said while they were away").length, 2, client.out);
});

it("no example is without a test", () => {
  const tests = readFileSync(import.meta.filename, "utf8");
  const names = readdirSync(EXAMPLES, { withFileTypes: true }).filter((entry) => entry.isDirectory() && entry.name !== "node_modules").map(({ name }) => name);
  for (const name of names) assert.match(tests, new RegExp(`^it\\("${name}: `, "m"));
});
