// docs/getting-started.md, done from top to bottom: every block of commands and code on it is used here.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, it } from "node:test";
import { Shell, blocks } from "./readme.js";
import { Server, waitFor } from "./server.js";

const ROOT = join(import.meta.dirname, "../../..");
const PAGE = join(ROOT, "docs/getting-started.md");

let server;
let folder;
const shells = [];

before(async () => {
  server = await Server.start({ CARILLON_DRAIN__WINDOW_MS: "500" });
  folder = mkdtempSync(join(tmpdir(), "carillon-started-"));
});
after(async () => {
  for (const shell of shells) await shell.end();
  await server?.remove();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

it("leads from nothing to a chat that misses nothing", { timeout: 300_000 }, async () => {
  const [build, known, token, app, ada, grace, mint, ...more] = blocks(PAGE, "sh");
  const [talk, renewed, ...moreCode] = blocks(PAGE, "js");
  assert.deepEqual([...more, ...moreCode], [], "every block is used");
  const sh = (script, options) => {
    const shell = new Shell(server, script, { folder: join(folder, "my-chat"), ...options });
    shells.push(shell);
    return shell;
  };

  // What builds was done by whoever runs the tests, and the server is there.
  assert.equal(build, "cargo build\ncargo dev\n");
  assert.equal(known, 'export PATH="$PWD/target/debug:$PATH" CARILLON_DATA_DIR="$PWD/carillon-data"\n');
  assert.match(await sh(token, { folder }).done(), /^ey[\w-]+\.[\w-]+\.[\w-]+\n$/);

  const [buildsClient, makesApp] = [app.split("\n").slice(0, 2), app.split("\n").slice(2)];
  assert.ok(buildsClient.every((line) => line.startsWith("npm --prefix clients/typescript ")));
  mkdirSync(join(folder, "clients"));
  symlinkSync(join(ROOT, "clients/typescript"), join(folder, "clients/typescript"));
  await sh(makesApp.join("\n"), { folder }).done();
  writeFileSync(join(folder, "my-chat/talk.mjs"), talk.replaceAll("http://127.0.0.1:8080", server.url));

  const people = [sh(ada), sh(grace)];
  for (const person of people) await person.printed("(connected)");
  people[0].type("hello");
  for (const person of people) await person.printed("#1 ada: hello");
  people[1].type("hi");
  for (const person of people) await person.printed("#2 grace: hi");

  await server.stop();
  for (const person of people) await person.printed("(waiting)");
  people[0].type("are you there?");
  people[1].type("I think so");
  await server.start();
  const lines = (person) => person.out.split("\n").filter((line) => line.startsWith("#"));
  await waitFor(() => people.every((person) => lines(person).length >= 4), 60_000, () => `four messages; printed:\n${people.map(({ out }) => out).join("\n")}`);
  assert.deepEqual(lines(people[0]), lines(people[1]));
  assert.deepEqual(lines(people[0]).slice(2).map((line) => line.slice(3)).sort(), ["ada: are you there?", "grace: I think so"]);

  const { token: minted } = JSON.parse(await sh(mint).done());
  const renew = (status) => new Function("fetch", "Carillon", "url", `${renewed}; return token();`)(async () => new Response("a token", { status }), class {});
  assert.deepEqual([await renew(200), await renew(401)], ["a token", null]);
  await assert.rejects(renew(502), "an error page is no token");
  const last = sh('node talk.mjs', { env: { TOKEN: minted } });
  await last.printed("#4 ");
});
