// Node's `ws` with rooms in a Map, as tutorials have it.
import { WebSocketServer } from "ws";
import { answer, connected, message, ready } from "./dialect.js";

const rooms = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false }, () => ready(server.address().port));
server.on("connection", (socket) => {
  const joined = new Set();
  socket.on("message", (text) => {
    const said = JSON.parse(text);
    if (said.type === "join") {
      if (!rooms.has(said.room)) rooms.set(said.room, new Set());
      rooms.get(said.room).add(socket);
      joined.add(said.room);
    } else {
      const frame = message(said);
      for (const member of rooms.get(said.room) ?? []) member.send(frame);
    }
    socket.send(answer(said));
  });
  socket.on("close", () => joined.forEach((room) => rooms.get(room).delete(socket)));
  socket.send(connected);
});
