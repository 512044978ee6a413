// Compiled, never run: what the types promise to an app, and what they refuse.

import { Carillon, CarillonError, type ConnectionState, type Gap, type Message, type Position, type Published } from "@carillon/client";

interface ChatMessage {
  text: string;
}

const carillon = new Carillon({ url: "https://live.example", token: async () => (await fetch("/token")).text() });
const room = carillon.room<ChatMessage, { typing: boolean }>("chat:1", {
  last: 50,
  reload: async (gap: Gap): Promise<Position> => ({ offset: gap.before, epoch: gap.epoch }),
});

const stop: () => void = room.on("message", (message: Message<ChatMessage>) => message.payload.text.toUpperCase());
room.on("ephemeral", ({ payload }) => payload.typing satisfies boolean);
room.on("gap", ({ after, before }) => before - after);
room.on("end", (error) => error?.code);
for await (const { payload, offset, own } of room) console.log(payload.text, offset + 1, own === true);

const published: Published = await room.publish({ text: "hi" }, { key: "k" });
published.offset satisfies number;
published.duplicate satisfies true | undefined;
(await room.history({ before: 3 })).messages[0]?.payload.text satisfies string | undefined;
(await room.presence()).members.map(({ userId, info }) => [userId, info?.["name"]]);
carillon.connection.on("change", (state: ConnectionState) => state);
stop();

// @ts-expect-error A payload of another type.
void room.publish("hi");
// @ts-expect-error An ephemeral payload of another type.
room.ephemeral({ text: "hi" });
// @ts-expect-error No such kind.
room.on("messages", () => {});
// @ts-expect-error The token is needed.
new Carillon({ url: "https://live.example" });
// @ts-expect-error Names of the inside are not there.
room._onFrame;

function explain(error: unknown): string {
  if (!(error instanceof CarillonError)) return "";
  return error.outcome === "unknown" ? "stored or not" : error.code;
}
explain(null);
