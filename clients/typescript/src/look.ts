// Finds a publish in doubt in the history of a room that is not joined: what the same user said, with the same payload,
// at about that time. Keys don't stand in the history.

import type { Frame } from "./frames.js";
import type { Publish } from "./publishing.js";
import type { Wire } from "./wire.js";

/** Clocks of client and server may differ by this much. */
const SKEW_MS = 10 * 60_000;
const PAGE = 200;
/** 4000 messages: `KNOWN_MAX` of `publishing.ts`. */
const PAGES_MAX = 20;

/** Reads from the newest message back to when the publish was made. `known` are the ids of messages that are others. */
export async function look(wire: Wire, room: string, { text, inDoubtSince }: Publish, known: Set<string>): Promise<Frame | undefined> {
  const sinceTs = inDoubtSince! - SKEW_MS;
  let before: number | undefined;
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const { messages, more } = await new Promise<Frame>((resolve, reject) => wire._ask({ type: "history", room, before, limit: PAGE }, {}, resolve, reject));
    const found = messages.find(({ id, sender, payload, ts }) =>
      sender === wire.connection.userId && !known.has(id) && ts > sinceTs && JSON.stringify(payload) === text);
    if (found) return { ...(found as Frame), duplicate: true };
    if (!more || !messages[0] || messages[0].ts <= sinceTs) break;
    before = messages[0].offset;
  }
  return undefined;
}
