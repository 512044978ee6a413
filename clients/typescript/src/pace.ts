// Keeps a connection below the rate that the server allows, so that nothing is refused and order is kept.

import type { Clock } from "./clock.js";

/** A second's worth may go at once. The server's own allowance is larger by default, and not smaller. */
const BURST_MS = 1_000;
/** Nothing waits this long: the clock was set back. */
const ABSURD_MS = 1_000_000;

/** Every frame takes its turn on a time line; turns that lie up to a second back may be used up at once. */
export class Pace {
  #turnAt = 0;
  #isStopped = false;

  constructor(
    private readonly _clock: Clock,
    private readonly _perSecond: number,
    private readonly _write: (text: string) => void,
  ) {}

  /** Writes `text` now or later, in order. `isDroppable` is written now or not at all: false says that it was not. */
  send(text: string, isDroppable?: boolean): boolean {
    const now = this._clock.now();
    if (this.#turnAt > now + ABSURD_MS) this.#turnAt = 0;
    const turnAt = Math.max(this.#turnAt, now - BURST_MS) + 1_000 / this._perSecond;
    if (turnAt > now && isDroppable) return false;
    this.#turnAt = turnAt;
    if (turnAt <= now) this._write(text);
    else this._clock.setTimeout(() => this.#isStopped || this._write(text), turnAt - now);
    return true;
  }

  onGone(): void {
    this.#isStopped = true;
  }
}
