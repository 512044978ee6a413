// Time and chance, in one place, so that tests move them by hand.

/** What the SDK asks of its surroundings for time and chance. */
export interface Clock {
  /** Unix milliseconds. */
  now(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  /** From 0 up to, not including, 1. */
  random(): number;
}

export const realClock: Clock = {
  now: Date.now,
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
  random: Math.random,
};

/** 128 bits by chance, as digits and hyphens: legal as client id and as idempotency key. */
export function randomId(): string {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}
