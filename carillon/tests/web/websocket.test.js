// The gateway's WebSocket frames and handshake against the cases of the Autobahn TestSuite, as kosoku (PyPI) runs them. Those of
// permessage-deflate (12 and 13) are about an extension that the gateway does not agree to.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { start } from "./example.js";
import { unlessThere } from "./needs.js";

/** Of a virtual environment with what `python.txt` names. */
const PYTHON = process.env.CARILLON_PYTHON;

const SUITE = `
import asyncio, json, os, sys
from kosoku import FailureError, run_fuzzingclient

async def main():
    try:
        results = await run_fuzzingclient(sys.argv[1], exclude_cases=["12.*", "13.*"], concurrency=4)
    except FailureError as failed:
        results = failed.results
    print(json.dumps([[r.case_id, r.passed, r.behavior.value, r.behavior_close.value, r.result, r.result_close] for r in results]), flush=True)

asyncio.run(main())
# Not by the interpreter's own end, which the runner's threads now and then crash.
os._exit(0)
`;

/** What the runner told, or null if it crashed, which says nothing of the gateway. */
async function run(address) {
  const suite = spawn(PYTHON, ["-c", SUITE, `ws://${address}`], { stdio: ["ignore", "pipe", "inherit"] });
  let told = "";
  suite.stdout.setEncoding("utf8").on("data", (text) => (told += text));
  const [code, signal] = await new Promise((resolve) => suite.once("close", (...ended) => resolve(ended)));
  if (signal) return null;
  assert.equal(code, 0);
  return JSON.parse(told);
}

describe("Autobahn", { skip: unlessThere("python", PYTHON, "CARILLON_PYTHON names no Python with what python.txt lists") }, () => {
  let example, address;
  before(async () => {
    ({ example, address } = await start("websocket_echo"));
  });
  after(() => example.kill());

  test("every case passes", async () => {
    const cases = (await run(address)) ?? (await run(address)) ?? (await run(address));
    assert.ok(cases, "the runner crashes each time");
    assert.deepEqual(cases.filter(([, passed]) => !passed), []);
    // Chapters 1 to 7, 9, and 10.
    assert.equal(cases.length, 301);
  });
});
