// Socket.IO 4, with the Redis adapter if REDIS_URL is set.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { fields, ready } from "./dialect.js";

const http = createServer();
const io = new Server(http, { serveClient: false });
if (process.env.REDIS_URL) {
  const publisher = createClient({ url: process.env.REDIS_URL });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  io.adapter(createAdapter(publisher, subscriber));
}
io.on("connection", (socket) => {
  socket.on("join", (room, ack) => {
    socket.join(room);
    ack?.({ type: "joined", room, offset: 0, epoch: "none" });
  });
  socket.on("broadcast", (said, ack) => {
    io.to(said.room).emit("message", fields(said));
    ack?.({ type: "ack", room: said.room, offset: 0 });
  });
});
http.listen(0, "127.0.0.1", () => ready(http.address().port));
