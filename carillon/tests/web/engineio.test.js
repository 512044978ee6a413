// Every MUST of the Engine.IO 4 and Socket.IO 5 protocol documents, against the two examples that mount the gateway's own
// transport. In the order of the documents, whose words the names are.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { WebSocket } from "ws";
import { start } from "./example.js";

const INTERVAL = 300;
const TIMEOUT = 200;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A WebSocket whose messages can be awaited one by one. */
class Socket {
  #come = [];
  #waiting = [];

  constructor(url) {
    this.socket = new WebSocket(url);
    this.socket.on("message", (data, isBinary) => this.#tell(isBinary ? [...data] : data.toString()));
    this.opened = new Promise((resolve) => this.socket.once("open", resolve));
    this.closed = new Promise((resolve) => this.socket.once("close", (code) => resolve(code)));
    this.socket.on("error", () => {});
  }

  #tell(message) {
    const next = this.#waiting.shift();
    next ? next(message) : this.#come.push(message);
  }

  async next() {
    if (this.#come.length) return this.#come.shift();
    return new Promise((resolve, reject) => {
      this.#waiting.push(resolve);
      this.closed.then((code) => reject(new Error(`closed with ${code}`)));
    });
  }

  /** The next one that is no ping. */
  async said() {
    for (;;) {
      const message = await this.next();
      if (message !== "2") return message;
      this.send("3");
    }
  }

  send(message) {
    this.socket.send(message);
  }

  close() {
    this.socket.terminate();
  }
}

for (const [name, path] of [["engineio_echo", "/engine.io/"], ["socketio_echo", "/socket.io/"]]) {
  describe(`Engine.IO, by ${name}`, () => {
    let example, http, ws;
    before(async () => {
      const started = await start(name);
      example = started.example;
      http = `http://${started.address}${path}?`;
      ws = `ws://${started.address}${path}?`;
    });
    after(() => example.kill());

    const polling = (sid, options) => fetch(`${http}EIO=4&transport=polling&sid=${sid}`, options);
    const post = (sid, body) => polling(sid, { method: "POST", body });
    const socket = (sid) => new Socket(`${ws}EIO=4&transport=websocket${sid ? `&sid=${sid}` : ""}`);
    const open = async () => JSON.parse((await (await fetch(`${http}EIO=4&transport=polling`)).text()).slice(1));
    const gone = async (sid) => {
      const answer = await polling(sid);
      assert.equal(answer.status, 400);
      return answer.json();
    };
    // What the example says back: the Socket.IO one needs a CONNECT first, and packets of its own.
    const isEcho = name === "engineio_echo";

    test("handshake answers an open packet", async () => {
      const answer = await fetch(`${http}EIO=4&transport=polling`);
      assert.equal(answer.status, 200);
      assert.match(answer.headers.get("content-type"), /^text\/plain/);
      const text = await answer.text();
      assert.equal(text[0], "0");
      const { sid, ...rest } = JSON.parse(text.slice(1));
      assert.equal(typeof sid, "string");
      const told = { upgrades: ["websocket"], pingInterval: INTERVAL, pingTimeout: TIMEOUT, maxPayload: 1_000_000 };
      assert.deepEqual(rest, told);
      const direct = socket();
      const first = await direct.next();
      assert.deepEqual(JSON.parse(first.slice(1)).upgrades, []);
      direct.close();
    });

    test("missing or wrong parameters are answered 400", async () => {
      const wrong = {
        "transport=polling": 5,
        "EIO=abc&transport=polling": 5,
        "EIO=3&transport=polling": 5,
        "EIO=4": 0,
        "EIO=4&transport=abc": 0,
        "EIO=4&transport=polling&sid=unknown": 1,
        "EIO=4&transport=websocket": 3,
      };
      for (const [query, code] of Object.entries(wrong)) {
        const answer = await fetch(http + query);
        assert.equal(answer.status, 400, query);
        assert.equal((await answer.json()).code, code, query);
      }
      for (const method of ["POST", "PUT"]) {
        const answer = await fetch(`${http}EIO=4&transport=polling`, { method });
        assert.equal(answer.status, 400);
        assert.deepEqual(await answer.json(), { code: 2, message: "Bad handshake method" });
      }
      const unknown = await post("unknown", "4hello");
      assert.deepEqual([unknown.status, await unknown.json()], [400, { code: 1, message: "Session ID unknown" }]);
      for (const query of ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc"]) {
        await new Socket(ws + query).closed;
      }
    });

    test("any page may connect to an example", async () => {
      const headers = { origin: "https://any.example.com" };
      const answer = await fetch(`${http}EIO=4&transport=polling`, { headers });
      assert.equal(answer.headers.get("access-control-allow-origin"), "*");
      const preflight = await fetch(`${http}EIO=4&transport=polling`, { method: "OPTIONS", headers });
      assert.equal(preflight.status, 204);
      assert.match(preflight.headers.get("access-control-allow-methods"), /POST/);
    });

    if (isEcho) {
      test("payloads carry one packet or several, binary ones as base64", async () => {
        for (const body of ["4hello", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA=="]) {
          const { sid } = await open();
          const posted = await post(sid, body);
          assert.equal(posted.status, 200);
          assert.equal(await posted.text(), "ok");
          assert.equal(await (await polling(sid)).text(), body);
        }
      });

      test("frames carry one packet each, binary ones as they are", async () => {
        const direct = socket();
        await direct.next();
        direct.send("4hello");
        assert.equal(await direct.said(), "4hello");
        direct.send(Uint8Array.from([1, 2, 3, 4]));
        assert.deepEqual(await direct.said(), [1, 2, 3, 4]);
        direct.send(`4${"ä".repeat(40_000)}`);
        assert.equal((await direct.said()).length, 40_001);
        direct.close();
      });

      test("a payload of the limit is taken, a larger one is not", async () => {
        const { sid } = await open();
        assert.equal((await post(sid, `4${"a".repeat(999_999)}`)).status, 200);
        assert.equal((await (await polling(sid)).text()).length, 1_000_000);
        assert.equal((await post(sid, `4${"a".repeat(1_000_000)}`)).status, 413);
        await gone(sid);
        const direct = socket();
        await direct.next();
        direct.send("a".repeat(1_000_001));
        assert.equal(await direct.closed, 1009);
      });
    }

    test("an invalid packet ends it", async () => {
      for (const body of ["abc", "", "4a\x1e", "bA", new Uint8Array([0x34, 0xff])]) {
        const { sid } = await open();
        assert.equal((await post(sid, body)).status, 400);
        assert.deepEqual(await gone(sid), { code: 1, message: "Session ID unknown" });
      }
      const direct = socket();
      await direct.next();
      direct.send("abc");
      await direct.closed;
    });

    test("a second GET at once ends it", async () => {
      const { sid } = await open();
      const first = polling(sid);
      await sleep(20);
      assert.equal((await polling(sid)).status, 400);
      assert.equal((await first).status, 200);
      assert.equal(await (await first).text(), "1");
      await gone(sid);
    });

    test("a second POST at once ends it", async () => {
      const { sid } = await open();
      const body = new ReadableStream({
        async start(controller) {
          controller.enqueue(new TextEncoder().encode("4a"));
          await sleep(100);
          controller.close();
        },
      });
      const first = polling(sid, { method: "POST", body, duplex: "half" });
      await sleep(30);
      assert.equal((await post(sid, "4b")).status, 400);
      await first.catch(() => {});
      await gone(sid);
    });

    test("a GET that is given up ends it", async () => {
      const { sid } = await open();
      const controller = new AbortController();
      polling(sid, { signal: controller.signal }).catch(() => {});
      await sleep(20);
      controller.abort();
      await sleep(20);
      await gone(sid);
    });

    test("pings go out and pongs come in", async () => {
      const { sid } = await open();
      for (let round = 0; round < 3; round += 1) {
        assert.equal(await (await polling(sid)).text(), "2");
        assert.equal((await post(sid, "3")).status, 200);
      }
      if (!isEcho) return; // Without a CONNECT, it is closed before the third ping.
      const direct = socket();
      await direct.next();
      for (let round = 0; round < 3; round += 1) {
        assert.equal(await direct.next(), "2");
        direct.send("3");
      }
      direct.close();
    });

    test("a missing pong ends it", async () => {
      const { sid } = await open();
      const direct = socket();
      await sleep(INTERVAL + TIMEOUT);
      await gone(sid);
      await direct.closed;
    });

    test("other methods are refused, and change nothing", async () => {
      const { sid } = await open();
      for (const method of ["PUT", "DELETE", "PATCH"]) {
        const answer = await polling(sid, { method });
        assert.deepEqual([answer.status, (await answer.json()).code], [400, 3], method);
      }
      assert.equal(await (await polling(sid)).text(), "2");
    });

    test("a client's ping ends it", async () => {
      const { sid } = await open();
      assert.equal((await post(sid, "2")).status, 400);
      await gone(sid);
    });

    test("a client's close ends it", async () => {
      // Again and again, since the end meets the server's looks at its clock by chance.
      for (let round = 0; round < 10; round += 1) {
        const { sid } = await open();
        const [polled] = await Promise.all([polling(sid), sleep(50).then(() => post(sid, "1"))]);
        assert.equal(await polled.text(), "6");
        await gone(sid);
      }
      const direct = socket();
      await direct.next();
      direct.send("1");
      await direct.closed;
    });

    test("a WebSocket takes over", async () => {
      const { sid } = await open();
      const waiting = polling(sid);
      const upgrade = socket(sid);
      await upgrade.opened;
      upgrade.send("2probe");
      assert.equal(await upgrade.next(), "3probe");
      assert.equal(await (await waiting).text(), "6");
      assert.equal(await (await polling(sid)).text(), "6");
      if (isEcho) await post(sid, "4before");
      upgrade.send("5");
      if (isEcho) {
        upgrade.send("4hello");
        assert.equal(await upgrade.said(), "4before");
        assert.equal(await upgrade.said(), "4hello");
      }
      await sleep(20);
      assert.equal((await polling(sid)).status, 400);
      const second = socket(sid);
      await second.opened;
      await second.closed;
      if (isEcho) {
        upgrade.send("4still here");
        assert.equal(await upgrade.said(), "4still here");
      }
      upgrade.close();
    });

    test("a second WebSocket is closed, whatever the first one is doing", async () => {
      const { sid } = await open();
      const probing = socket(sid);
      await probing.opened;
      probing.send("2probe");
      assert.equal(await probing.next(), "3probe");
      await socket(sid).closed;
      probing.send("5");
      assert.equal(await probing.next(), "2");
      probing.close();
      const direct = socket();
      const { sid: own } = JSON.parse((await direct.next()).slice(1));
      await socket(own).closed;
      assert.equal(await direct.next(), "2");
      direct.close();
    });

    test("probe and upgrade may come at once", async () => {
      const { sid } = await open();
      const upgrade = socket(sid);
      await upgrade.opened;
      upgrade.send("2probe");
      upgrade.send("5");
      assert.equal((await polling(sid)).status, 400);
      const second = socket(sid);
      await second.closed;
      upgrade.close();
    });

    test("a probe that fails leaves polling as it was", async () => {
      const { sid } = await open();
      for (const nonsense of ["5", "4hello", "abc", "2", Uint8Array.from([1])]) {
        const probe = socket(sid);
        await probe.opened;
        probe.send(nonsense);
        await probe.closed;
      }
      const probe = socket(sid);
      await probe.opened;
      probe.send("2probe");
      assert.equal(await probe.next(), "3probe");
      probe.close();
      await sleep(20);
      assert.equal(await (await polling(sid)).text(), "2");
    });

    test("a WebSocket for an unknown id is refused", async () => {
      await socket("unknown").closed;
      await socket("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").closed;
    });
  });
}

describe("Socket.IO", () => {
  let example, url;
  before(async () => {
    const started = await start("socketio_echo");
    example = started.example;
    url = `ws://${started.address}/socket.io/?EIO=4&transport=websocket`;
  });
  after(() => example.kill());

  const opened = async () => {
    const socket = new Socket(url);
    await socket.next();
    return socket;
  };
  const connected = async () => {
    const socket = await opened();
    socket.send("40");
    await socket.said();
    await socket.said();
    return socket;
  };

  test("a client connects to a namespace, with or without a payload", async () => {
    for (const [packet, prefix, auth] of [
      ["40", "40", '42["auth",{}]'],
      ['40{"token":"123"}', "40", '42["auth",{"token":"123"}]'],
      ["40/custom,", "40/custom,", '42/custom,["auth",{}]'],
      ["40/custom", "40/custom,", '42/custom,["auth",{}]'],
      ['40/custom,{"token":"abc"}', "40/custom,", '42/custom,["auth",{"token":"abc"}]'],
    ]) {
      const socket = await opened();
      socket.send(packet);
      const answer = await socket.said();
      assert.equal(answer.slice(0, prefix.length), prefix);
      const payload = JSON.parse(answer.slice(prefix.length));
      assert.deepEqual(Object.keys(payload), ["sid"]);
      assert.equal(typeof payload.sid, "string");
      assert.equal(await socket.said(), auth);
      socket.close();
    }
  });

  test("who listens for one frame at a time hears CONNECT and what follows", async () => {
    // As conformance suites do: whoever waits for the second frame only once it has the first one loses it in a common chunk.
    for (let round = 0; round < 5; round += 1) {
      const socket = new WebSocket(url);
      const heard = () => new Promise((resolve) => socket.once("message", (data) => resolve(data.toString())));
      await heard();
      socket.send("40/custom,");
      assert.match(await heard(), /^40\/custom,/);
      assert.equal(await heard(), '42/custom,["auth",{}]');
      socket.terminate();
    }
  });

  test("an unknown namespace is refused", async () => {
    const socket = await opened();
    socket.send("40/random");
    assert.equal(await socket.said(), '44/random,{"message":"Invalid namespace"}');
    socket.close();
  });

  test("anything but a CONNECT first closes", async () => {
    for (const packet of ["4abc", '42["message"]', "41", "43", Uint8Array.from([1])]) {
      const socket = await opened();
      socket.send(packet);
      await socket.closed;
    }
  });

  test("no CONNECT at all closes", async () => {
    const socket = await opened();
    const pongs = setInterval(() => socket.send("3"), 50);
    await socket.closed;
    clearInterval(pongs);
  });

  test("an event without a name closes", async () => {
    for (const packet of ["42", "42[]", "42{}", '42"message"', "42[1,2]", "47", "431", "431{}"]) {
      const socket = await connected();
      socket.send(packet);
      await socket.closed;
    }
  });

  test("leaving the main namespace keeps the connection", async () => {
    const socket = await connected();
    socket.send("41");
    assert.equal(await socket.next(), "2");
    socket.close();
  });

  test("namespaces share a connection", async () => {
    const socket = await connected();
    socket.send("40/custom");
    await socket.said();
    await socket.said();
    socket.send('42/custom,["message",1]');
    assert.equal(await socket.said(), '42/custom,["message-back",1]');
    socket.send("41/custom");
    socket.send('42["message","message to main namespace"]');
    assert.equal(await socket.said(), '42["message-back","message to main namespace"]');
    socket.close();
  });

  test("events and acknowledgments carry any arguments", async () => {
    const socket = await connected();
    socket.send('42["message",1,"2",{"3":[true]}]');
    assert.equal(await socket.said(), '42["message-back",1,"2",{"3":[true]}]');
    socket.send('42456["message-with-ack",1,"2",{"3":[false]}]');
    assert.equal(await socket.said(), '43456[1,"2",{"3":[false]}]');
    socket.send('4212["message-with-ack"]');
    assert.equal(await socket.said(), "4312[]");
    socket.close();
  });

  test("attachments follow their packet", async () => {
    const socket = await connected();
    const placeholders = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}';
    for (const [packet, answer] of [
      [`452-["message",${placeholders}]`, `452-["message-back",${placeholders}]`],
      [`452-789["message-with-ack",${placeholders}]`, `462-789[${placeholders}]`],
    ]) {
      socket.send(packet);
      socket.send(Uint8Array.from([1, 2, 3]));
      socket.send(Uint8Array.from([4, 5, 6]));
      assert.equal(await socket.said(), answer);
      assert.deepEqual(await socket.said(), [1, 2, 3]);
      assert.deepEqual(await socket.said(), [4, 5, 6]);
    }
    socket.close();
  });
});
