// The examples of the gateway: its transports without the product, for conformance suites.

import { spawn } from "node:child_process";
import { dirname, join } from "node:path";

const EXAMPLES = join(dirname(process.env.CARILLON_BIN ?? "../../../target/debug/carillon"), "examples");

/** Starts an example on a free port; its address without a scheme. */
export async function start(name) {
  const example = spawn(join(EXAMPLES, name), ["127.0.0.1:0"], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  for await (const chunk of example.stdout) {
    said += chunk;
    const [, address] = /\w:\/\/([^/\s]+)[/\s]/.exec(said) ?? [];
    if (address) return { example, address };
  }
  throw new Error(`${name} did not start`);
}
