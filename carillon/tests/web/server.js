// A really started server, and a client that keeps every frame as the text it came as. Knows of no page and no browser.

import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WebSocket } from "ws";

const BINARY = process.env.CARILLON_BIN;
if (!BINARY) throw new Error("CARILLON_BIN must name the carillon binary; `cargo xtask test` sets it");

const START_WITHIN_MS = 30_000;
export const FRAME_WITHIN_MS = 30_000;

/** `carillon dev` on a free port with a data folder of its own. A second `start` keeps both. */
export class Server {
  static async start(settings = {}) {
    const server = new Server(settings);
    try {
      await server.start();
    } catch (error) {
      // Left alone it would keep the tests from ending.
      await server.remove();
      throw error;
    }
    return server;
  }

  constructor(settings) {
    this.settings = settings;
    this.dataDir = mkdtempSync(join(tmpdir(), "carillon-test-"));
    this.listen = "127.0.0.1:0";
  }

  async start() {
    this.process = spawn(BINARY, ["dev"], { env: this.#environment(), stdio: ["ignore", "pipe", "pipe"] });
    this.ended = new Promise((resolve) => this.process.once("close", (code, signal) => resolve({ code, signal })));
    let out = "";
    let log = "";
    this.process.stderr.setEncoding("utf8").on("data", (text) => (log = (log + text).slice(-4_000)));
    this.process.stdout.setEncoding("utf8").on("data", (text) => (out += text));
    const isUp = () => /^ready listen=\S+ admin=\S+$/m.test(out) && (out.match(/http:\S+#\S*token=\S+/g) ?? []).length >= 2;
    const ended = this.ended.then(({ code, signal }) => {
      throw new Error(`the server ended (${signal ?? code}) before it was ready:\n${out}\n${log}`);
    });
    const up = waitFor(isUp, START_WITHIN_MS, () => `the ready line and two links; stdout:\n${out}\nlog:\n${log}`);
    await Promise.race([up, ended]);
    ended.catch(() => {});
    [, this.address] = /^ready listen=(\S+)/m.exec(out);
    // Restarts take the same port, so that clients find the server again.
    this.listen = this.address;
    this.links = out.match(/http:\S+#\S*token=\S+/g);
  }

  get url() {
    return `http://${this.address}`;
  }

  token(sub, ...options) {
    const args = ["token", "--sub", sub, ...options];
    return execFileSync(BINARY, args, { env: this.#environment(), encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] }).trim();
  }

  /** No chance to write anything, as when the machine's power goes. */
  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }

  async stop() {
    this.process.kill("SIGTERM");
    const { code } = await this.ended;
    return code;
  }

  async remove() {
    await this.kill();
    rmSync(this.dataDir, { recursive: true, force: true });
  }

  /** Settings of whoever runs the tests must not reach the server. */
  #environment() {
    const outside = Object.entries(process.env).filter(([name]) => !name.startsWith("CARILLON_"));
    return {
      ...Object.fromEntries(outside),
      CARILLON_DATA_DIR: this.dataDir,
      CARILLON_LISTEN: this.listen,
      CARILLON_ADMIN_LISTEN: "127.0.0.1:0",
      ...this.settings,
    };
  }
}

/** A WebSocket that remembers all frames, parsed and as text. */
export class Client {
  frames = [];
  #ref = 0;
  #close = null;

  /** The way of every tutorial: the token in the address, no subprotocol. */
  static async connect(server, token, query = {}) {
    const client = new Client(server, `?${new URLSearchParams({ token, ...query })}`);
    client.connected = await client.until("connected");
    return client;
  }

  constructor(server, query = "", protocols = [], options = {}) {
    this.socket = new WebSocket(`ws://${server.address}/ws${query}`, protocols, options);
    this.socket.on("message", (data, isBinary) => {
      const text = data.toString();
      this.frames.push(isBinary ? { text, type: "binary" } : { text, ...JSON.parse(text) });
    });
    this.refused = new Promise((resolve) => this.socket.once("unexpected-response", (_, response) => resolve(response.statusCode)));
    this.socket.on("error", () => {}); // What matters comes as a close.
    this.socket.once("close", (code, reason) => (this.#close = { code, reason: reason.toString() }));
  }

  /** The close, as `{code, reason}`, once it comes. */
  async closed() {
    return waitFor(() => this.#close, FRAME_WITHIN_MS, () => `the close; got ${this.#texts()}`);
  }

  /** A frame, or the very text of one. */
  send(frame) {
    this.socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  /** Sends with a `ref` of its own, and waits for whatever answers it. */
  async ask(frame) {
    const ref = (this.#ref += 1);
    this.send({ ...frame, ref });
    return this.until((answer) => answer.ref === ref, `the answer to ${JSON.stringify(frame)}`);
  }

  /** The first frame, of all that came or will come, that is of this type or passes the test. */
  async until(wanted, what = `a frame ${wanted}`) {
    const test = typeof wanted === "string" ? (frame) => frame.type === wanted : wanted;
    return waitFor(() => this.frames.find(test), FRAME_WITHIN_MS, () => `${what}; got ${this.#texts()}`);
  }

  #texts() {
    return this.frames.map(({ text }) => text).join("\n") || "nothing";
  }

  of(type) {
    return this.frames.filter((frame) => frame.type === type);
  }

  close() {
    this.socket.terminate();
  }
}

/** Looks again and again until `find` returns something, and fails with what was waited for. */
export async function waitFor(find, withinMs, describe) {
  const deadline = performance.now() + withinMs;
  for (;;) {
    const found = await find();
    if (found) return found;
    if (performance.now() > deadline) throw new Error(`waited ${withinMs} ms for ${describe()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
