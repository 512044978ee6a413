// The built package where JavaScript runs: Node (as a module, by `require`, in a worker), Deno, Bun, and a worker of a browser.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http from "node:http";
import { join } from "node:path";
import { after, before, it } from "node:test";
import { pathToFileURL } from "node:url";
import { Shell } from "./readme.js";
import { Server } from "./server.js";
import { launch } from "./tab.js";

const DIST = join(import.meta.dirname, "../../../clients/typescript/dist");
const SCRIPT = readFileSync(join(import.meta.dirname, "runtime.mjs"), "utf8").replace('"@carillon/client"', JSON.stringify(pathToFileURL(join(DIST, "esm/index.js"))));
const LIMIT = { timeout: 120_000 };

let server;
before(async () => void (server = await Server.start()));
after(() => server?.remove());

/** Runs a command that is given the script on stdin, and is to say what came of it. */
async function run(command, script = SCRIPT) {
  const shell = new Shell(server, command, { env: { CARILLON_URL: server.url, CARILLON_TOKEN: server.token("ada") } });
  shell.child.stdin.end(script);
  const out = await shell.done();
  return JSON.parse(/^\{.*\}$/m.exec(out)?.[0] ?? assert.fail(out));
}

it("Node, as a module", LIMIT, async () => {
  const { payload, own } = await run("node --input-type=module");
  assert.deepEqual({ payload, own }, { payload: "hello from Node", own: true });
});

it("Node, by `require`", LIMIT, async () => {
  const script = SCRIPT.replace(/^import .* from (.*);$/m, `const { Carillon } = require(${JSON.stringify(join(DIST, "cjs/index.js"))});`);
  const [imports, ...rest] = script.split("\n\n").slice(1);
  const { own } = await run("node --input-type=commonjs", `${imports}\n(async () => {\n${rest.join("\n")}\n})();`);
  assert.ok(own);
});

it("Node, in a worker", LIMIT, async () => {
  const script = `new (require("node:worker_threads").Worker)(new URL("data:text/javascript,${encodeURIComponent(SCRIPT)}"));`;
  assert.ok((await run("node --input-type=commonjs", script)).own);
});

for (const [name, command] of [["Deno", "deno run --quiet --no-config --allow-net --allow-env --allow-read -"], ["Bun", "bun run -"]]) {
  it(name, LIMIT, async () => {
    const { payload, own, transport } = await run(join(import.meta.dirname, "node_modules/.bin", command));
    assert.deepEqual({ payload, own, transport }, { payload: `hello from ${name}`, own: true, transport: "websocket" });
  });
}

it("a worker of a browser", LIMIT, async () => {
  // A page of its own: what a bundler makes of it is the same file.
  const script = readFileSync(join(import.meta.dirname, "../../page/carillon.js"), "utf8");
  const worker = `import { Carillon } from "/carillon.js";
    const carillon = new Carillon(${JSON.stringify({ url: server.url, token: server.token("ada") })});
    const room = carillon.room("worker");
    room.on("message", ({ offset, payload, own }) => postMessage({ offset, payload, own, transport: carillon.connection.transport }));
    room.publish("hello from a worker");`;
  const files = { "/": ["text/html", "<!doctype html>"], "/carillon.js": ["text/javascript", script], "/worker.js": ["text/javascript", worker] };
  const site = http.createServer(({ url }, response) => {
    const [type, text] = files[url] ?? ["text/plain", ""];
    response.writeHead(files[url] ? 200 : 404, { "Content-Type": type }).end(text);
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  const browser = await launch();
  try {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${site.address().port}/`);
    const told = await page.evaluate(() => new Promise((resolve, reject) => {
      const worker = new Worker("/worker.js", { type: "module" });
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    }));
    assert.deepEqual(told, { offset: 1, payload: "hello from a worker", own: true, transport: "websocket" });
  } finally {
    await browser.close();
    site.close();
  }
});
