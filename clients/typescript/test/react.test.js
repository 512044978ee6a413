// The hooks, in StrictMode: every effect runs twice, and nothing may be joined, listed or left twice for it.

import assert from "node:assert/strict";
import { after, it } from "node:test";
import { Window } from "happy-dom";
import { StrictMode, act, createElement as h, useState } from "react";
import { World, ack, message, settled } from "./fake.js";

const window = new Window();
globalThis.navigator ??= window.navigator; // Node has one from version 21 on.
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: true });
const { createRoot } = await import("react-dom/client");
const { useConnection, useEphemeral, usePresence, useRoom } = await import("../dist/esm/react.js");
after(() => window.close());

/** A component in StrictMode; `html` is what it shows. */
async function shown(component, props) {
  const place = window.document.createElement("div");
  const root = createRoot(place);
  const render = (props) => act(async () => root.render(h(StrictMode, null, h(component, props))));
  await render(props);
  return { render, html: () => place.textContent, unmount: () => act(async () => root.unmount()) };
}

/** Lets something happen, and React draw it. */
const happens = (what) => act(async () => {
  what();
  await settled();
});
/** A component that is gone is believed to be gone after all. */
const passed = () => act(async () => new Promise((resolve) => setTimeout(resolve, 5)));

const List = ({ world, room: name = "lobby" }) => {
  const { messages, pending, state, hasEarlier } = useRoom(world.carillon, name);
  return `${state}: ${messages.map(({ offset, payload }) => `${offset} ${payload}`)}${pending.map(({ payload }) => ` (${payload})`)}${hasEarlier ? " …" : ""}`;
};

it("a room is joined once, shown once, and left when nobody shows it", async () => {
  const world = new World();
  await world.connected();
  const page = await shown(List, { world });
  await happens(() => {});
  assert.deepEqual(world.socket.of("join").map(({ last }) => last), [50]);
  await happens(() => {
    world.answer("join", { type: "joined", offset: 2, epoch: "e1", recovered: true });
    world.socket.says(message(1, "one", { epoch: "e1" }), message(2, "two"));
  });
  assert.equal(page.html(), "live: 1 one,2 two");
  await passed();
  assert.equal(world.socket.of("leave").length, 0);
  await page.unmount();
  await passed();
  assert.equal(world.socket.of("leave").length, 1);
});

it("what one hook wishes holds, whichever came first", async () => {
  const world = new World();
  await world.connected();
  const reloads = [];
  const Wishes = ({ last, reload }) => `${useRoom(world.carillon, "lobby", { last, reload }).messages.length}`;
  const Both = ({ isBoth }) => [
    `${usePresence(world.carillon, "lobby")?.count ?? "?"} `,
    h(Wishes, { key: 1, last: 7, reload: () => void reloads.push(1) }),
    isBoth && h(Wishes, { key: 2, reload: () => void reloads.push(2) }),
  ];
  const page = await shown(Both, {});
  await happens(() => {});
  assert.equal(world.socket.last("join").last, 7);
  await happens(() => world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true, members: [{ userId: "ada" }] }));
  await page.render({ isBoth: true });
  await happens(() => world.socket.says({ type: "joined", room: "lobby", offset: 1, epoch: "e2", recovered: false, reason: "epoch" }));
  await happens(() => {});
  assert.deepEqual([reloads, page.html()], [[2], "1 00"]);
  await page.unmount();
});

it("two components share one list", async () => {
  const world = new World();
  await world.connected();
  const Both = (props) => [h(List, { ...props, key: 1 }), " | ", props.isBoth && h(List, { ...props, key: 2 })];
  const page = await shown(Both, { world, isBoth: true });
  await happens(() => {});
  await happens(() => world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true }));
  await happens(() => world.socket.says(message(1, "one", { epoch: "e1" })));
  assert.equal(page.html(), "live: 1 one | live: 1 one");
  await page.render({ world, isBoth: false });
  await passed();
  await happens(() => world.socket.says(message(2, "two")));
  assert.equal(page.html(), "live: 1 one,2 two | ");
  assert.equal(world.socket.of("leave").length, 0);
  await page.unmount();
});

it("a list that comes later than the room begins with its history", async () => {
  const world = new World();
  const { told } = await world.room("lobby", { head: 1 });
  world.socket.says(message(2));
  const page = await shown(List, { world });
  await happens(() => world.socket.says(message(3)));
  const { before, limit } = world.socket.last("history");
  assert.deepEqual({ before, limit }, { before: 3, limit: 50 });
  await happens(() => world.answer("history", { type: "history", messages: [message(1), message(2)], more: false, epoch: "e1" }));
  assert.equal(page.html(), "live: 1 m1,2 m2,3 m3");
  assert.equal(told.messages.length, 2);
  await page.unmount();
});

it("another room is another list", async () => {
  const world = new World();
  await world.connected();
  const page = await shown(List, { world });
  await happens(() => {});
  await happens(() => world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true }));
  await happens(() => world.socket.says(message(1, "one", { epoch: "e1" })));
  await page.render({ world, room: "other" });
  await passed();
  assert.equal(page.html(), "joining: ");
  assert.deepEqual(world.socket.of("leave").map(({ room }) => room), ["lobby"]);
  assert.equal(world.socket.last("join").room, "other");
  await page.unmount();
});

it("what is published waits in `pending`, and then has its place", async () => {
  const world = new World();
  await world.connected();
  let view;
  const page = await shown((props) => {
    view = useRoom(world.carillon, "lobby");
    return List(props);
  }, { world });
  await happens(() => {});
  await happens(() => world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true }));
  await happens(() => void view.publish("mine"));
  assert.equal(page.html(), "live:  (mine)");
  await happens(() => world.answer("broadcast", ack(1)));
  assert.equal(page.html(), "live: 1 mine");
  let error;
  await happens(() => void view.publish("not allowed").catch((caught) => (error = caught)));
  await happens(() => world.answer("broadcast", { type: "error", code: "forbidden", message: "no" }));
  assert.equal(error.code, "forbidden");
  assert.equal(page.html(), "live: 1 mine");
  const [{ key, payload, error: why }] = view.failed;
  assert.deepEqual([payload, why.code, view.failed.length], ["not allowed", "forbidden", 1]);
  await happens(() => void view.publish(payload, { key }));
  assert.equal(page.html(), "live: 1 mine (not allowed)");
  assert.deepEqual(view.failed, []);
  await happens(() => world.answer("broadcast", { type: "error", code: "forbidden", message: "no" }));
  await happens(() => view.discard(key));
  assert.deepEqual(view.failed, []);
  await page.unmount();
});

it("older messages are put before the list", async () => {
  const world = new World();
  await world.connected();
  let view;
  const page = await shown((props) => {
    view = useRoom(world.carillon, "lobby");
    return List(props);
  }, { world });
  await happens(() => {});
  await happens(() => {
    world.answer("join", { type: "joined", offset: 3, epoch: "e1", recovered: true });
    world.socket.says(message(3));
  });
  assert.equal(page.html(), "live: 3 m3 …");
  await happens(() => void view.loadEarlier());
  assert.equal(world.socket.last("history").before, 3);
  await happens(() => world.answer("history", { type: "history", messages: [message(1), message(2)], more: false, epoch: "e1" }));
  assert.equal(page.html(), "live: 1 m1,2 m2,3 m3");
  await page.unmount();
});

it("what was asked for stays, and of the rest the newest are kept", async () => {
  const world = new World();
  await world.connected();
  let view;
  const page = await shown(({ world }) => {
    view = useRoom(world.carillon, "lobby", { keep: 2, last: 2 });
    return view.messages.map(({ offset }) => offset).join();
  }, { world });
  await happens(() => {});
  await happens(() => {
    world.answer("join", { type: "joined", offset: 9, epoch: "e1", recovered: true });
    world.socket.says(message(8), message(9));
  });
  assert.equal(page.html(), "8,9");
  await happens(() => world.socket.says(message(10)));
  assert.equal(page.html(), "9,10");
  await happens(() => void view.loadEarlier());
  await happens(() => world.answer("history", { type: "history", messages: [message(6), message(7), message(8)], more: true, epoch: "e1" }));
  assert.equal(page.html(), "6,7,8,9,10");
  await happens(() => world.socket.says(message(11)));
  assert.equal(page.html(), "7,8,9,10,11", "not all at once");
  assert.equal(view.hasEarlier, true);
  await page.unmount();
});

it("a list of one is one", async () => {
  const world = new World();
  await world.connected();
  const page = await shown(({ world }) => useRoom(world.carillon, "lobby", { keep: 1 }).messages.map(({ offset }) => offset).join(), { world });
  await happens(() => {});
  await happens(() => world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true }));
  await happens(() => world.socket.says(message(1, "m1", { epoch: "e1" }), message(2), message(3)));
  assert.equal(page.html(), "3");
  await page.unmount();
});

it("who is there is shown also to those who come while others watch", async () => {
  const world = new World();
  await world.connected();
  const Here = ({ world }) => usePresence(world.carillon, "lobby")?.members.map(({ userId }) => userId).join() ?? "?";
  const Page = ({ world, isShown }) => [h(List, { world, key: 1 }), isShown && [" ", h(Here, { world, key: 2 })]];
  const page = await shown(Page, { world, isShown: true });
  await happens(() => {});
  await happens(() => world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true, members: [{ userId: "ada", connections: 1 }] }));
  assert.equal(page.html(), "live:  ada");
  // The app watches as well, so that the room is not joined anew for it.
  const unlisten = world.carillon.room("lobby").on("userJoined", () => {});
  await page.render({ world, isShown: false });
  await passed();
  await happens(() => world.socket.says({ type: "userJoined", room: "lobby", user: { id: "grace" }, count: 2 }));
  await page.render({ world, isShown: true });
  await happens(() => {});
  assert.equal(page.html(), "live:  ada,grace");
  unlisten();
  await page.unmount();
});

it("a room that the app left and joined again begins anew, and is still watched", async () => {
  const world = new World();
  await world.connected();
  const Here = ({ world }) => [h(List, { world, key: 1 }), " ", usePresence(world.carillon, "lobby")?.count ?? "?"];
  const page = await shown(Here, { world });
  await happens(() => {});
  await happens(() => {
    world.answer("join", { type: "joined", offset: 2, epoch: "e1", recovered: true, members: [{ userId: "ada", connections: 1 }] });
    world.socket.says(message(1), message(2));
  });
  assert.equal(page.html(), "live: 1 m1,2 m2 1");
  await happens(() => world.carillon.room("lobby").leave());
  assert.equal(page.html(), "idle:  ?");
  await happens(() => world.carillon.room("lobby").join());
  const { presence, last } = world.socket.last("join");
  assert.deepEqual({ presence, last }, { presence: true, last: 50 });
  await happens(() => {
    world.answer("join", { type: "joined", offset: 3, epoch: "e1", recovered: true, members: [{ userId: "ada", connections: 1 }] });
    world.socket.says(message(1), message(2), message(3));
  });
  assert.equal(page.html(), "live: 1 m1,2 m2,3 m3 1");
  await page.unmount();
});

it("who is there, and how the connection is, are shown", async () => {
  const world = new World();
  const page = await shown(({ world }) => {
    const present = usePresence(world.carillon, "lobby");
    return `${useConnection(world.carillon)}: ${present?.members.map(({ userId }) => userId) ?? "?"}`;
  }, { world });
  assert.match(page.html(), /: \?$/);
  await act(() => world.connected());
  await happens(() => world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true, members: [{ userId: "ada", connections: 1 }] }));
  assert.equal(world.socket.last("join").presence, true);
  assert.equal(page.html(), "connected: ada");
  await happens(() => world.socket.says({ type: "userJoined", room: "lobby", user: { id: "grace" }, count: 2 }));
  assert.equal(page.html(), "connected: ada,grace");
  await happens(() => world.connection.drop(1_000));
  assert.match(page.html(), /^waiting/);
  await page.unmount();
});

it("who types is shown until the message comes, or for a while", async () => {
  const world = new World();
  await world.connected();
  const page = await shown(({ world }) => {
    const { room } = useRoom(world.carillon, "lobby");
    return [...useEphemeral(room, 20)].map(([sender, what]) => `${sender} ${what}`).join();
  }, { world });
  await happens(() => {});
  await happens(() => world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true }));
  const types = () => world.socket.says({ type: "message", room: "lobby", payload: "types", sender: "grace", ts: 1, ephemeral: true });
  await happens(types);
  assert.equal(page.html(), "grace types");
  await happens(() => world.socket.says(message(1, "hi", { epoch: "e1" })));
  assert.equal(page.html(), "");
  await happens(types);
  for (let n = 0; page.html() !== "" && n < 200; n += 1) await passed();
  assert.equal(page.html(), "");
  await page.unmount();
});

it("a component keeps its state while messages come", async () => {
  const world = new World();
  await world.connected();
  let mounts = 0;
  const page = await shown(({ world }) => {
    useState(() => (mounts += 1));
    return List({ world });
  }, { world });
  await happens(() => {});
  const { length } = [mounts];
  assert.equal(length, 1);
  const before = mounts;
  await happens(() => world.answer("join", { type: "joined", offset: 0, epoch: "", recovered: true }));
  await happens(() => world.socket.says(message(1, "one", { epoch: "e1" })));
  assert.equal(mounts, before);
  await page.unmount();
});
