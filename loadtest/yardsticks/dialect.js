// The few frames that a yardstick knows: `join` is answered by `joined`, `broadcast` by `ack`, and members get `message`.

export const connected = '{"type":"connected"}';

/** The answer to a `join` or a `broadcast`. */
export const answer = (said) =>
  JSON.stringify({ type: said.type === "join" ? "joined" : "ack", room: said.room, ref: said.ref, offset: 0, epoch: "none" });

/** What the members of a room get. */
export const message = (said) => JSON.stringify({ type: "message", room: said.room, payload: said.payload });

export const ready = (port) => console.log(`ready listen=127.0.0.1:${port}`);
