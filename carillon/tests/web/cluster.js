// NATS, auth, fanout and two gateways, each a process of its own, behind a proxy that gives every request to the next gateway:
// the deployment that is the least kind to a client that polls.

import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { waitFor } from "./server.js";

const FOLDER = dirname(process.env.CARILLON_BIN ?? "");
const NATS = process.env.CARILLON_NATS_SERVER;
const START_WITHIN_MS = 30_000;

export async function freePort() {
  const server = net.createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A process, and what it said. */
class Part {
  constructor(command, args, env, isUp) {
    Object.assign(this, { command, args, env, isUp });
  }

  async start() {
    this.said = "";
    this.process = spawn(this.command, this.args, { env: this.env, stdio: ["ignore", "pipe", "pipe"] });
    this.ended = new Promise((resolve) => this.process.once("close", resolve));
    for (const pipe of [this.process.stdout, this.process.stderr]) {
      pipe.setEncoding("utf8").on("data", (text) => (this.said = (this.said + text).slice(-20_000)));
    }
    await waitFor(() => this.isUp(this.said), START_WITHIN_MS, () => `${this.command}:\n${this.said}`);
    [, this.address] = /^ready listen=(\S+)/m.exec(this.said) ?? [];
    return this;
  }

  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }
}

export class Cluster {
  static isPossible = Boolean(NATS);

  static async start(settings = {}) {
    const cluster = new Cluster();
    cluster.folder = mkdtempSync(join(tmpdir(), "carillon-cluster-"));
    const nats = await freePort();
    const config = join(cluster.folder, "nats.conf");
    writeFileSync(config, `listen: 127.0.0.1:${nats}\njetstream { store_dir: "${cluster.folder}/nats" }\n`);
    const env = {
      CARILLON_JWT__SECRET: "a secret of the web tests, of 32 bytes and more",
      CARILLON_ORIGINS: "https://app.example.com",
      CARILLON_NATS__URL: `nats://127.0.0.1:${nats}`,
      CARILLON_ADMIN_LISTEN: "127.0.0.1:0",
      CARILLON_LISTEN: "127.0.0.1:0",
      ...settings,
    };
    cluster.env = env;
    const isReady = (said) => /^ready /m.test(said);
    const part = (name, env) => new Part(join(FOLDER, name), [], env, isReady).start();
    const isListening = (said) => said.includes("Server is ready");
    cluster.parts = [await new Part(NATS, ["-c", config], {}, isListening).start()];
    const auth = await part("carillon-auth", env);
    env.CARILLON_AUTH__URL = `http://${auth.address}`;
    cluster.parts.push(auth, await part("carillon-fanout", env));
    cluster.gateways = [await part("carillon-gateway", env), await part("carillon-gateway", env)];
    // Another start takes the same port.
    for (const gateway of cluster.gateways) gateway.env = { ...env, CARILLON_LISTEN: gateway.address };
    cluster.#proxy();
    await new Promise((resolve) => cluster.proxy.listen(0, "127.0.0.1", resolve));
    cluster.address = `127.0.0.1:${cluster.proxy.address().port}`;
    cluster.url = `http://${cluster.address}`;
    return cluster;
  }

  token(sub) {
    return execFileSync(process.env.CARILLON_BIN, ["token", "--sub", sub], {
      env: { CARILLON_JWT__SECRET: this.env.CARILLON_JWT__SECRET },
      encoding: "utf8",
    }).trim();
  }

  /** Every request to the next gateway that is up; a connection that is refused counts as down. */
  #proxy() {
    let turn = 0;
    this.requests = [0, 0];
    const next = () => {
      for (let tries = 0; tries < this.gateways.length; tries += 1) {
        turn = (turn + 1) % this.gateways.length;
        if (this.gateways[turn].process.exitCode === null && this.gateways[turn].process.signalCode === null) break;
      }
      this.requests[turn] += 1;
      const [host, port] = this.gateways[turn].address.split(":");
      return { host, port: Number(port) };
    };
    this.proxy = http.createServer((request, response) => {
      const { host, port } = next();
      const { method, url: path, headers } = request;
      const onward = http.request({ host, port, method, path, headers, agent: false }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
        answer.on("error", () => response.destroy());
      });
      onward.on("error", () => response.destroy());
      response.on("close", () => onward.destroy());
      request.pipe(onward);
    });
    this.proxy.on("upgrade", (request, socket, head) => {
      const onward = net.connect(next(), () => {
        const lines = [`GET ${request.url} HTTP/1.1`];
        for (let at = 0; at < request.rawHeaders.length; at += 2) {
          lines.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
        }
        onward.write(`${lines.join("\r\n")}\r\n\r\n`);
        onward.write(head);
        onward.pipe(socket);
        socket.pipe(onward);
      });
      for (const [one, other] of [[onward, socket], [socket, onward]]) {
        one.on("error", () => other.destroy());
        one.on("close", () => other.destroy());
      }
    });
  }

  async remove() {
    this.proxy.closeAllConnections();
    this.proxy.close();
    for (const part of [...this.gateways, ...this.parts.reverse()]) await part.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
