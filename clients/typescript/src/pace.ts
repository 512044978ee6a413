// Keeps a connection below the rate that the server allows, so that nothing is refused and order is kept.

import type { Clock } from "./clock.js";
import type { Limits } from "./frames.js";

/** Nothing waits this long: the clock was set back. */
const ABSURD_MS = 1_000_000;

/**
 * Every frame takes its turn on a time line; turns that lie some way back may be used up at once: half of what the server allows, a second's
 * worth if it says nothing. The other half is for frames that the network holds up, and that come together with those behind them.
 */
export class Pace {
  #turnAt = 0;
  #isStopped = false;

  #clock: Clock;
  #frameMs: number;
  #burstMs: number;

  constructor(clock: Clock, { framesPerSecond, framesBurst = 2 * framesPerSecond }: Limits) {
    this.#clock = clock;
    this.#frameMs = 1_000 / framesPerSecond;
    this.#burstMs = this.#frameMs * Math.max(1, framesBurst / 2);
  }

  /** Calls `write`, which writes one frame, now or later, in order. `isDroppable`: now or not at all; false says that it was not. */
  take(write: () => void, isDroppable?: boolean): boolean {
    const now = this.#clock.now();
    if (this.#turnAt > now + ABSURD_MS) this.#turnAt = 0;
    const turnAt = Math.max(this.#turnAt, now - this.#burstMs) + this.#frameMs;
    if (turnAt > now && isDroppable) return false;
    this.#turnAt = turnAt;
    if (turnAt <= now) write();
    else this.#clock.setTimeout(() => this.#isStopped || write(), turnAt - now);
    return true;
  }

  onGone(): void {
    this.#isStopped = true;
  }
}
