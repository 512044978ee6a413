// What stands in a README or a page of the docs, run as it stands there, but for where the server is. Knows of no certain page.

import { spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, dirname, extname, join } from "node:path";
import { waitFor } from "./server.js";

const PRINTED_WITHIN_MS = 60_000;
const SERVER_IN_DOCS = "http://127.0.0.1:8080";
const TEXTS = new Set([".js", ".mjs", ".py", ".sh", ".html", ".jsx"]);

/** The blocks of one language, in order. */
export function blocks(file, language) {
  return [...readFileSync(file, "utf8").matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, "gms"))].map(([, text]) => text);
}

/** A copy of a folder that finds the same packages, in which texts name the addresses of a test. */
export function copyOf(folder, addresses) {
  const around = join(folder, "../node_modules/.copies");
  mkdirSync(around, { recursive: true });
  const copy = mkdtempSync(join(around, "copy-"));
  cpSync(folder, copy, { recursive: true });
  for (const name of readdirSync(copy)) {
    if (!TEXTS.has(extname(name))) continue;
    const text = Object.entries(addresses).reduce((text, [from, to]) => text.replaceAll(from, to), readFileSync(join(copy, name), "utf8"));
    writeFileSync(join(copy, name), text);
  }
  return { folder: copy, remove: () => rmSync(copy, { recursive: true, force: true }) };
}

/** A shell as a reader of the docs has it. */
export class Shell {
  out = "";

  constructor(server, script, { folder, env = {}, replace = {} } = {}) {
    const addresses = { [SERVER_IN_DOCS]: server.url, ...replace };
    const local = Object.entries(addresses).reduce((text, [from, to]) => text.replaceAll(from, to), script);
    const path = dirname(process.env.CARILLON_BIN) + delimiter + process.env.PATH;
    const outside = Object.entries(process.env).filter(([name]) => !name.startsWith("CARILLON_"));
    // A group of its own, so that what it started ends with it.
    this.child = spawn("bash", ["-euo", "pipefail", "-c", local], {
      cwd: folder, env: { ...Object.fromEntries(outside), PATH: path, CARILLON_DATA_DIR: server.dataDir, ...env }, stdio: "pipe", detached: true,
    });
    for (const pipe of [this.child.stdout, this.child.stderr]) pipe.setEncoding("utf8").on("data", (text) => (this.out += text));
    this.ended = new Promise((resolve) => this.child.once("close", resolve));
    this.script = local;
  }

  /** What it printed, once that matches. */
  async printed(what) {
    const find = () => (typeof what === "string" ? this.out.includes(what) : what.exec(this.out));
    return waitFor(find, PRINTED_WITHIN_MS, () => `${what}; printed by ${this.script}:\n${this.out}`);
  }

  /** What it printed, once it has ended well. */
  async done() {
    const code = await this.ended;
    if (code !== 0) throw new Error(`ended with ${code}: ${this.script}\n${this.out}`);
    return this.out;
  }

  type(line) {
    this.child.stdin.write(`${line}\n`);
  }

  end() {
    if (this.child.exitCode === null) process.kill(-this.child.pid, "SIGKILL");
    return this.ended;
  }
}
