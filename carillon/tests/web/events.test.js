// Server-Sent Events as others read them: a browser's EventSource over restarts, Node's `eventsource`, curl. And the README's curl
// commands, run as they stand there.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { after, before, it } from "node:test";
import { EventSource } from "eventsource";
import { chromium } from "playwright-core";
import { Server, waitFor } from "./server.js";

const CHROMIUM = process.env.CHROMIUM || "/usr/bin/chromium";
const README = join(import.meta.dirname, "../../../README.md");
const LIMIT = { timeout: 180_000 };
const SEEN_WITHIN_MS = 60_000;
const ROOMS = "/events?room=left&room=right";

let server;

before(async () => {
  server = await Server.start({ CARILLON_SSE__RETRY_MS: "200", CARILLON_DRAIN__WINDOW_MS: "200" });
});
after(async () => {
  await server?.remove();
});

async function say(room, payload, token = server.token("backend")) {
  const response = await fetch(`${server.url}/rooms/${room}/messages`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ payload }),
  });
  assert.equal(response.status, 201);
  return (await response.json()).offset;
}

/** What was seen of each room, as offsets in the order in which they came. */
const offsets = (frames, room) => frames.filter((frame) => frame.room === room).map((frame) => frame.offset);
const upTo = (last) => Array.from({ length: last }, (_, index) => index + 1);

it("a browser misses nothing in two rooms while its server is killed and drained", LIMIT, async () => {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--headless=new", "--no-sandbox", "--disable-gpu"] });
  try {
    const page = await browser.newPage();
    await page.goto(server.url);
    await page.evaluate((url) => {
      window.seen = [];
      window.gaps = [];
      window.stops = 0;
      window.source = new EventSource(url);
      window.source.addEventListener("message", ({ data }) => window.seen.push(JSON.parse(data)));
      window.source.addEventListener("gap", ({ data }) => window.gaps.push(data));
      window.source.addEventListener("error", () => (window.stops += window.source.readyState === EventSource.CLOSED));
    }, `${ROOMS}&token=${server.token("ada")}`);
    await page.waitForFunction(() => window.source.readyState === EventSource.OPEN);
    const seen = async (left, right) => {
      const frames = () => page.evaluate(() => window.seen);
      await waitFor(async () => (await frames()).length >= left + right, SEEN_WITHIN_MS, () => `${left} and ${right} messages`);
      assert.deepEqual(offsets(await frames(), "left"), upTo(left));
      assert.deepEqual(offsets(await frames(), "right"), upTo(right));
    };
    await say("left", "before");
    await say("right", "before");
    await seen(1, 1);

    await server.kill();
    await server.start();
    await say("left", "while it was away");
    await say("right", "while it was away");
    await seen(2, 2);

    await server.stop();
    await server.start();
    for (const word of ["after", "the", "drain"]) await say("right", word);
    await seen(2, 5);
    assert.deepEqual(await page.evaluate(() => [window.gaps.length, window.stops, window.source.readyState]), [0, 0, 1]);
  } finally {
    await browser.close();
  }
});

it("Node's eventsource resumes, and hears typed events", LIMIT, async () => {
  const token = server.token("grace");
  const source = new EventSource(`${server.url}/events/grace`, {
    fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } }),
  });
  const heard = [];
  for (const type of ["connected", "order", "message"]) source.addEventListener(type, ({ data }) => heard.push([type, JSON.parse(data)]));
  const count = (number) => waitFor(() => heard.length >= number, SEEN_WITHIN_MS, () => `${number} events; heard ${JSON.stringify(heard)}`);
  try {
    await count(1);
    const admin = server.token("backend", "--grants", JSON.stringify([{ rooms: ["user:*"], can: ["publish"] }]));
    await say("user:grace", { type: "order", data: { id: 1 } }, admin);
    await count(2);
    await server.kill();
    await server.start();
    await say("user:grace", { type: "order", data: { id: 2 } }, admin);
    await count(4);
    const of = (type) => heard.filter(([kind]) => kind === type).map(([, data]) => data);
    assert.deepEqual(of("order"), [{ id: 1 }, { id: 2 }]);
    assert.deepEqual(of("connected"), [{ userId: "grace" }, { userId: "grace" }]);
  } finally {
    source.close();
  }
});

/** A shell as a reader of the README has it, but for where the server is. */
function shell(script) {
  const local = script.replaceAll("http://127.0.0.1:8080", server.url);
  const path = dirname(process.env.CARILLON_BIN) + delimiter + process.env.PATH;
  const outside = Object.entries(process.env).filter(([name]) => !name.startsWith("CARILLON_"));
  const environment = { ...Object.fromEntries(outside), PATH: path, CARILLON_DATA_DIR: server.dataDir };
  // A group of its own, so that what it started ends with it.
  const child = spawn("bash", ["-euc", local], { env: environment, stdio: ["ignore", "pipe", "inherit"], detached: true });
  const run = { out: "", child, ended: new Promise((resolve) => child.once("close", resolve)) };
  child.stdout.setEncoding("utf8").on("data", (text) => (run.out += text));
  run.end = () => {
    if (child.exitCode === null) process.kill(-child.pid, "SIGKILL");
    return run.ended;
  };
  return run;
}

it("the README's curl commands work", LIMIT, async () => {
  const [, section] = /^## Three doors\n(.*?)^## /ms.exec(readFileSync(README, "utf8")) ?? [];
  const [listen, speak] = [...section.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, script]) => script);
  for (const options of ["", " --http2-prior-knowledge"]) {
    const listening = shell(listen.replace("curl ", `curl --silent${options} `));
    try {
      // Where it stands, so that it has joined.
      await waitFor(() => /^id: \S+\n\n/m.test(listening.out), SEEN_WITHIN_MS, () => `the start; got ${listening.out}`);
      const speaking = shell(speak.replaceAll("curl ", "curl --silent --fail ").replace("order-17", `order${options.length}`));
      assert.equal(await speaking.ended, 0, speaking.out);
      assert.match(speaking.out, /^\{"room":"lobby","offset":\d+,.*\}\{"messages":\[.*"payload":"hello".*\],"more":false,"epoch":".+"\}$/s);
      const clean = /^retry: 200\n\nid: [\w-]+\n\nid: [\w-]+\nevent: message\ndata: \{"type":"message","room":"lobby","payload":"hello",.*\}\n\n$/;
      await waitFor(() => clean.test(listening.out), SEEN_WITHIN_MS, () => `the message; got ${listening.out}`);
    } finally {
      await listening.end();
    }
  }
});
