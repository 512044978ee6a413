// The few frames that a yardstick knows: `join` is answered by `joined`, `broadcast` by `ack`, and members get `message`.

export const connected = '{"type":"connected"}';

/** The answer to a `join` or a `broadcast`. */
export const answer = (said) =>
  JSON.stringify({ type: said.type === "join" ? "joined" : "ack", room: said.room, ref: said.ref, offset: 0, epoch: "none" });

/** What the members of a room get: all the fields of Carillon's frame, so that servers are compared, and not lengths. */
export const fields = ({ room, payload }) => ({
  type: "message",
  room,
  payload,
  sender: "publisher0",
  ts: Date.now(),
  ephemeral: true,
});
export const message = (said) => JSON.stringify(fields(said));

export const ready = (port) => console.log(`ready listen=127.0.0.1:${port}`);
