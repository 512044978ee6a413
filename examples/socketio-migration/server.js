// The app's server as it was: rooms, who comes, and messages to all in the room. What happens while a client is away, it forgets.

import { Server } from "socket.io";

const io = new Server(3000);

io.on("connection", (socket) => {
  const user = { id: socket.handshake.auth.token }; // A real one checks it.
  socket.on("chat:join", (roomId) => {
    socket.join(roomId);
    socket.to(roomId).emit("chat:userJoined", user);
  });
  socket.on("chat:message", ({ roomId, text }) => io.to(roomId).emit("chat:message", { roomId, text, userId: user.id }));
});
