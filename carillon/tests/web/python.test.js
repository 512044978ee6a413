// The Socket.IO door with a client that is not JavaScript: python-socketio, as PyPI has it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { unlessThere } from "./needs.js";
import { FRAME_WITHIN_MS, Server, waitFor } from "./server.js";
import { closeAll, connected } from "./socketio.js";

/** Of a virtual environment with what `python.txt` names. */
const PYTHON = process.env.CARILLON_PYTHON;

/** What the client told, line by line, and how it ended. */
function run(...args) {
  const child = spawn(PYTHON, [join(import.meta.dirname, "python_client.py"), ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const run = { told: [], ended: new Promise((resolve) => child.once("close", resolve)) };
  let rest = "";
  child.stdout.setEncoding("utf8").on("data", (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    run.told.push(...lines.map((line) => JSON.parse(line)));
  });
  run.until = (name) =>
    waitFor(() => run.told.some(([what]) => what === name), 2 * FRAME_WITHIN_MS, () => `${name}; told ${JSON.stringify(run.told)}`);
  return run;
}

describe("python-socketio", { skip: unlessThere("python", PYTHON, "CARILLON_PYTHON names no Python with what python.txt lists") }, () => {
  let server;
  before(async () => {
    server = await Server.start();
  });
  afterEach(closeAll);
  after(() => server.remove());

  for (const transports of ["polling", "websocket", "polling,websocket"]) {
    test(`chats by ${transports}`, async () => {
      const room = `python-${transports.replace(",", "-")}`;
      const bob = await connected(server, server.token("bob"));
      await bob.ask("chat:join", room);
      const python = run(server.url, transports, server.token("ada"), room);
      await python.until("stored");
      await bob.ask("chat:message", { roomId: room, text: "from node" });
      assert.equal(await python.ended, 0, JSON.stringify(python.told));
      // Events come on threads of their own, so `connected` has no place among the answers.
      const [[, who]] = python.told.filter(([what]) => what === "connected");
      assert.equal(who.userId, "ada");
      const told = python.told.filter(([what]) => what !== "connected");
      assert.deepEqual(told, [
        ["joined", `chat:${room}`, true],
        ["stored", 1],
        ["message", 1, "ada", "from python: ä"],
        ["message", 2, "bob", "from node"],
        ["refused", "forbidden"],
        ["transport", transports === "polling" ? "polling" : "websocket"],
      ]);
      const messages = await bob.until("chat:message", 2);
      assert.deepEqual(messages.map(([{ text }]) => text), ["from python: ä", "from node"]);
    });
  }

  test("a bad token is told", async () => {
    const python = run(server.url, "polling", "nonsense", "nowhere");
    assert.equal(await python.ended, 3);
    assert.deepEqual(python.told, [["connect_error", { message: "Authentication failed" }]]);
  });
});
