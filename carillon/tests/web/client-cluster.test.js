// @carillon/client against two gateways, with connections that break again and again at any moment: at the end everybody's list
// is the log, and the log has everything that was said once, in the order in which each said it.

import assert from "node:assert/strict";
import { after, before, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";
import { Carillon } from "../../../clients/typescript/dist/esm/index.js";
import { Cluster } from "./cluster.js";
import { unlessThere } from "./needs.js";
import { Proxy } from "./proxy.js";
import { waitFor } from "./server.js";

/** Few for CI, 1000 to be sure: `CARILLON_TEST_DROPS=1000`. */
const DROPS = Number(process.env.CARILLON_TEST_DROPS || 100);
const SEED = Number(process.env.CARILLON_TEST_SEED || Date.now() % 1_000_000);
const PEOPLE = 4;
const SETTLED_WITHIN_MS = 120_000;
/** So that a thousand drops take minutes and not hours, attempts wait a fortieth of what they would. */
const HASTE = 40;

/** Chance that can be had again (mulberry32). */
function chanceOf(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const random = chanceOf(SEED);
const clock = {
  now: Date.now,
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (timer) => clearTimeout(timer),
  random: () => random() / HASTE,
};

let cluster;
const people = [];
before(async () => {
  if (Cluster.isPossible) cluster = await Cluster.start();
});
after(async () => {
  for (const { carillon, proxy } of people) {
    carillon.close();
    await proxy.close();
  }
  await cluster?.remove();
});

class Person {
  list = [];
  gaps = [];
  said = [];
  drops = 0;

  static async start(name) {
    const person = new Person();
    person.name = name;
    person.proxy = await Proxy.start(() => cluster.address);
    const token = cluster.token(name);
    person.carillon = new Carillon({ url: person.proxy.url, token: () => token, WebSocket, clock, fallback: false });
    person.room = person.carillon.room("dropped", { since: { offset: 0, epoch: "" } });
    person.room.on("message", ({ offset, payload }) => person.list.push(`${offset} ${payload}`));
    person.room.on("gap", (gap) => person.gaps.push(gap));
    await waitFor(() => person.room.state === "live", SETTLED_WITHIN_MS, () => `${name} to be live`);
    return person;
  }

  /** Talks until told to stop, below the rate that a connection is allowed. */
  async talk(isEnough) {
    for (let n = 0; !isEnough(); n += 1) {
      this.said.push(this.room.publish(`${this.name} ${n}`));
      await sleep(25 + random() * 25);
    }
  }

  /** Breaks the connection at moments of chance: while it is up, being made, or waiting; from this end or from the network. */
  async suffer(drops) {
    for (; this.drops < drops; this.drops += 1) {
      if (random() < 0.9) await waitFor(() => this.carillon.connection.state === "connected", SETTLED_WITHIN_MS, () => `${this.name} to be back`);
      await sleep(random() * 100);
      if (random() < 0.3) this.carillon.connection.drop(random() * 100);
      else if (random() < 0.8) this.proxy.drop();
      else {
        this.proxy.set("cut");
        await sleep(random() * 100);
        this.proxy.set("open");
      }
    }
  }
}

it(`the list is the log after ${DROPS} drops`, { skip: unlessThere("nats", Cluster.isPossible, "CARILLON_NATS_SERVER names no nats-server"), timeout: 60_000 + DROPS * 3_000 }, async (test) => {
  test.diagnostic(`CARILLON_TEST_SEED=${SEED}`);
  for (let n = 0; n < PEOPLE; n += 1) people.push(await Person.start(`person${n}`));
  let isEnough = false;
  const talking = Promise.all(people.map((person) => person.talk(() => isEnough)));
  await Promise.all(people.map((person) => person.suffer(DROPS / PEOPLE)));
  isEnough = true;
  await talking;

  const stored = (await Promise.all(people.map(({ said }) => Promise.all(said)))).map((places) => places.map(({ offset }) => offset));
  const count = stored.flat().length;
  test.diagnostic(`${count} messages, ${people.reduce((sum, { drops }) => sum + drops, 0)} drops, ${cluster.requests} connections by gateway`);
  await waitFor(() => people.every(({ list }) => list.length >= count), SETTLED_WITHIN_MS, () => `${count} messages; lists: ${people.map(({ list }) => list.length)}`);

  const log = [];
  for (let more = true; more; ) {
    const page = await people[0].room.history({ after: log.length, limit: 1_000 });
    log.push(...page.messages.map(({ offset, payload }) => `${offset} ${payload}`));
    more = page.more;
  }
  for (const { list, gaps } of people) {
    assert.deepEqual(gaps, []);
    assert.deepEqual(list, log);
  }
  assert.equal(log.length, count, "nothing is stored twice");
  for (const [index, offsets] of stored.entries()) {
    for (const [n, offset] of offsets.entries()) assert.equal(log[offset - 1], `${offset} person${index} ${n}`);
    assert.deepEqual(offsets, [...offsets].sort((a, b) => a - b), "in the order in which it was said");
  }
});
