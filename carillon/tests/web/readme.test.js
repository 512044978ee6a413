// The client and the commands in the README, run as they stand there: the client must miss nothing while its server is killed and
// comes back.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, it } from "node:test";
import { pathToFileURL } from "node:url";
import { Shell, blocks } from "./readme.js";
import { Client, Server, waitFor } from "./server.js";

const README = join(import.meta.dirname, "../../../README.md");
const LINES_MAX = 20;
const PRINTED_WITHIN_MS = 60_000;

let server;
let folder;

before(async () => {
  server = await Server.start();
  folder = mkdtempSync(join(tmpdir(), "carillon-readme-"));
});
after(async () => {
  await server?.remove();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

it("the README's client works, and resumes", { timeout: 180_000 }, async () => {
  const [, snippet] = /^```js\n(.*?)^```$/ms.exec(readFileSync(README, "utf8")) ?? [];
  assert.ok(snippet, "README.md has a js block");
  assert.ok(snippet.trimEnd().split("\n").length <= LINES_MAX, `the client has at most ${LINES_MAX} lines`);

  const file = join(folder, "client.mjs");
  writeFileSync(file, snippet);
  // Node has a WebSocket of its own from version 22 on; `ws` has the same interface, but for errors, which are fatal where nobody listens.
  const prelude = join(folder, "prelude.mjs");
  const ws = pathToFileURL(join(import.meta.dirname, "node_modules/ws/wrapper.mjs"));
  writeFileSync(prelude, `import { WebSocket } from ${JSON.stringify(ws)};
    globalThis.WebSocket ??= class extends WebSocket { constructor(...given) { super(...given).on("error", () => {}); } };\n`);
  const client = spawn(process.execPath, ["--import", pathToFileURL(prelude), file], {
    env: { ...process.env, CARILLON_URL: server.url, CARILLON_TOKEN: server.token("ada") },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  client.stdout.setEncoding("utf8").on("data", (text) => (out += text));
  client.stderr.setEncoding("utf8").on("data", (text) => (out += text));
  const printed = (what) => waitFor(() => out.includes(what), PRINTED_WITHIN_MS, () => `the client to print ${what}; it printed:\n${out}`);

  try {
    await printed("#1"); // Its own greeting, acknowledged.
    const grace = server.token("grace");
    let other = await Client.connect(server, grace);
    await other.ask({ type: "broadcast", room: "lobby", payload: "before the crash" });
    await printed("before the crash");

    await server.kill();
    await server.start();
    other = await Client.connect(server, grace);
    await other.ask({ type: "broadcast", room: "lobby", payload: "after the crash" });
    await printed("after the crash");
    assert.equal(out.split("before the crash").length - 1, 1, "what it saw before, it isn't sent again");
    other.close();
  } finally {
    client.kill();
  }
});

it("the README's commands for a shell work", { timeout: 120_000 }, async () => {
  const block = blocks(README, "sh").find((text) => text.startsWith("carillon tail "));
  assert.ok(block, "README.md shows `carillon tail`");
  const [tail, publish, doctor, ...more] = block.trimEnd().split("\n");
  assert.deepEqual(more, [], "every command is run");
  // A port of its own for the doctor, which looks whether it could listen.
  const env = { CARILLON_URL: server.url, CARILLON_TOKEN: server.token("ada"), CARILLON_LISTEN: "127.0.0.1:0", CARILLON_ADMIN_LISTEN: "127.0.0.1:0" };
  const shells = [tail, publish, doctor].map((script) => new Shell(server, script, { env }));
  try {
    const [tailing, publishing, looking] = shells;
    const { offset } = JSON.parse(await publishing.done());
    await tailing.printed(new RegExp(`#${offset} .*ada.*"hello"`));
    // What it finds depends on where it runs; that it looked at everything does not.
    await looking.ended;
    for (const about of ["settings", "keys", "token", "origins", "ports", "clock"]) assert.ok(looking.out.includes(about), `${about} in:\n${looking.out}`);
  } finally {
    for (const shell of shells) await shell.end();
  }
});
