// When to come back: what a close asks of a client, and how long attempts wait. No timers here.

import { BACKOFF_FIRST_MS, BACKOFF_MAX_MS } from "./limits.js";

/** Full jitter: any time from none to the whole. `attempt` counts from 0. */
export function backoffMs(attempt: number, random: () => number): number {
  return random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** attempt);
}

/**
 * The table of PROTOCOL.md: the code of an error to stop with; or the time after which to come back; or neither, for backoff.
 * `toldMs` is what a `draining` frame said before the close.
 */
export function afterClose(closeCode: number, reason: string, toldMs: number | undefined, random: () => number): string | number | undefined {
  if (closeCode === 1009) return "payload_too_large";
  // The reason text is a code: `unauthorized`, `protocol_error`, `forbidden`, `token_expired`.
  if (closeCode >= 4000 && closeCode < 4100) return reason || "stopped";
  if (closeCode >= 4200 && closeCode < 4300) {
    const told = /retry_ms=(\d+)/.exec(reason)?.[1];
    return told ? +told : (toldMs ?? random() * BACKOFF_FIRST_MS);
  }
  return undefined;
}
