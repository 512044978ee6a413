// When to come back: what a close asks of a client, and how long attempts wait. No timers here.

import { CarillonError } from "./error.js";

/** Attempts wait a random time up to 1, 2, 4, … seconds, so that many clients don't come back in step. */
export const BACKOFF_FIRST_MS = 1_000;
export const BACKOFF_MAX_MS = 30_000;

/** Full jitter: any time from none to the whole. `attempt` counts from 0. */
export function backoffMs(attempt: number, random: () => number): number {
  return random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** attempt);
}

/**
 * The table of PROTOCOL.md: an error to stop with; or the time after which to come back; or neither, for backoff.
 * `toldMs` is what a `draining` frame said before the close.
 */
export function afterClose(closeCode: number, reason: string, toldMs: number | undefined, random: () => number): CarillonError | number | undefined {
  if (closeCode === 1009 || (closeCode >= 4000 && closeCode < 4100)) {
    // The reason text is a code: `unauthorized`, `protocol_error`, `forbidden`, `token_expired`.
    const code = closeCode === 1009 ? "payload_too_large" : reason || "stopped";
    return new CarillonError(code, `the connection ended: ${closeCode} ${reason}`, { closeCode });
  }
  if (closeCode >= 4200 && closeCode < 4300) {
    const told = /retry_ms=(\d+)/.exec(reason)?.[1];
    return told ? +told : (toldMs ?? random() * BACKOFF_FIRST_MS);
  }
  return undefined;
}
