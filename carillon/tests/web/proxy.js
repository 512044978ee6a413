// A bad network between clients and a server: cut, silent, or one that lets no WebSocket through. Knows nothing of what is said.

import { connect, createServer } from "node:net";

export class Proxy {
  /**
   * `open`, `cut` (connections end, new ones are refused), `silent` (nothing comes through, nothing ends) or `deaf` (the server is
   * told everything, and nothing that it says comes back).
   */
  mode = "open";
  /** WebSocket is refused with 403, as some companies' proxies do. */
  blocksWebSocket = false;
  #pairs = new Set();

  static async start(target) {
    const proxy = new Proxy();
    proxy.target = target;
    proxy.server = createServer((client) => proxy.#onClient(client));
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get address() {
    return `127.0.0.1:${this.server.address().port}`;
  }

  get url() {
    return `http://${this.address}`;
  }

  set(mode) {
    this.mode = mode;
    if (mode === "cut") this.drop();
    // What was held in silence is lost with its connection, as in a network that is gone for long.
    if (mode === "open") for (const pair of this.#pairs) if (pair.isSilent || pair.isDeaf) pair.end();
    if (mode === "silent") for (const pair of this.#pairs) pair.isSilent = true;
    if (mode === "deaf") for (const pair of this.#pairs) pair.isDeaf = true;
  }

  /** Ends all connections of now. */
  drop() {
    for (const pair of this.#pairs) pair.end();
  }

  async close() {
    this.drop();
    await new Promise((resolve) => this.server.close(resolve));
  }

  #onClient(client) {
    if (this.mode === "cut") return client.destroy();
    const [host, port] = this.target().split(":");
    const server = connect(Number(port), host);
    const pair = { isSilent: this.mode === "silent", isDeaf: this.mode === "deaf", end: () => (client.destroy(), server.destroy(), this.#pairs.delete(pair)) };
    this.#pairs.add(pair);
    client.on("data", (bytes) => {
      if (pair.isSilent) return;
      if (this.blocksWebSocket && /^GET \/ws[ ?][^]*^upgrade: websocket\r$/im.test(bytes.toString("latin1"))) {
        client.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      } else server.write(bytes);
    });
    server.on("data", (bytes) => pair.isSilent || pair.isDeaf || client.write(bytes));
    for (const socket of [client, server]) socket.on("error", () => pair.end()).on("close", () => pair.isSilent || pair.end());
  }
}
