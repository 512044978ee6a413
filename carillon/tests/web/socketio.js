// socket.io-client, remembering what it was told.

import { io } from "socket.io-client";
import { FRAME_WITHIN_MS, waitFor } from "./server.js";

const opened = new Set();

/** A client that is left open keeps the tests from ending, and the next ones from being alone. */
export function closeAll({ but } = {}) {
  for (const socket of opened) {
    if (socket === but) continue;
    socket.disconnect();
    opened.delete(socket);
  }
}

/** A client that remembers what it was told, each event as [name, ...arguments]. */
export function open(server, token, options = {}) {
  const socket = io(server.url, {
    auth: { token },
    forceNew: true,
    reconnectionDelay: 20,
    reconnectionDelayMax: 200,
    ...options,
  });
  opened.add(socket);
  socket.told = [];
  socket.onAny((...event) => socket.told.push(event));
  socket.events = (name) => socket.told.filter(([event]) => event === name).map(([, ...args]) => args);
  socket.until = (name, count = 1) =>
    waitFor(
      () => socket.events(name).length >= count && socket.events(name),
      FRAME_WITHIN_MS,
      () => `${count} of ${name}; got ${JSON.stringify(socket.told)}`,
    );
  socket.ask = (name, ...args) => socket.timeout(FRAME_WITHIN_MS).emitWithAck(name, ...args);
  return socket;
}

export async function connected(server, token, options) {
  const socket = open(server, token, options);
  await socket.until("connected");
  return socket;
}
