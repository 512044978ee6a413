// Everybody's mouse, thirty times a second, and nothing of it is stored.

import { Carillon } from "@carillon/client";

const EVERY_MS = 1_000 / 30;

const { token, url = "http://127.0.0.1:8080" } = Object.fromEntries(new URLSearchParams(location.search));
const room = new Carillon({ url, token }).room("cursors");

let mine = null; // Where the mouse is, if nobody was told yet.
addEventListener("pointermove", ({ clientX, clientY }) => (mine = { x: clientX / innerWidth, y: clientY / innerHeight }));
setInterval(() => {
  if (mine) room.ephemeral(mine);
  mine = null;
}, EVERY_MS);

const cursors = new Map();
room.on("ephemeral", ({ sender, payload: { x, y } }) => {
  if (!cursors.has(sender)) cursors.set(sender, document.body.appendChild(Object.assign(document.createElement("div"), { className: "cursor", textContent: sender })));
  Object.assign(cursors.get(sender).style, { left: `${100 * x}%`, top: `${100 * y}%` });
});
room.on("userLeft", ({ userId }) => {
  cursors.get(userId)?.remove();
  cursors.delete(userId);
});
