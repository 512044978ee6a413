// Finds a publish in doubt in the history of a room that is not joined: there, one's own messages carry their keys.

import type { CarillonError } from "./error.js";
import type { Frame } from "./frames.js";
import type { Publish } from "./publishing.js";
import type { Wire } from "./wire.js";

/** Clocks of client and server may differ by this much. */
const SKEW_MS = 10 * 60_000;
/** The most that one answer holds. */
const PAGE = 1_000;
/** Twice what a room keeps by default. */
const PAGES_MAX = 20;

/**
 * Reads from the newest message back to when the publish was made. Nothing is there: it was not stored. Rejects where that can't be read,
 * or not any more. Shares no code, and so is loaded alone.
 */
export async function look(wire: Wire, room: string, { key, inDoubtSince, isHidden }: Publish): Promise<Frame | undefined> {
  let before: number | undefined;
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const { messages, more } = await new Promise<Frame>((resolve, reject) => wire._ask({ type: "history", room, before, limit: PAGE }, {}, resolve, reject));
    const found = messages.find((message) => message.key === key);
    if (found) return { ...(found as Frame), duplicate: true };
    const [oldest] = messages;
    if (!isHidden && (!oldest || oldest.offset === 1 || oldest.ts <= inDoubtSince! - SKEW_MS)) return undefined;
    if (!more || !oldest) break;
    before = oldest.offset;
  }
  throw { code: "unavailable", message: "the room was trimmed" } satisfies Partial<CarillonError>;
}
