// A chat in a terminal: what is typed goes to everybody in the room.

import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const socket = io("http://127.0.0.1:3000", { auth: { token: process.env.TOKEN } });

socket.on("connect", () => socket.emit("chat:join", "lobby"));
socket.on("chat:userJoined", ({ id }) => console.log(`${id} is here`));
socket.on("chat:message", ({ userId, text }) => console.log(`${userId}: ${text}`));
createInterface({ input: process.stdin }).on("line", (text) => socket.emit("chat:message", { roomId: "lobby", text }));
