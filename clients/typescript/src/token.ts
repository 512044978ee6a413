// The token that is used now, and when to ask for the next. The server alone judges tokens: what is read here only
// keeps one from being shown that is known to be over.

import type { Clock } from "./clock.js";

/**
 * A token, or a function that gets one from your backend. `null` says that there is none any more (signed out): the
 * connection stops. A promise that rejects, and a text that is no token, are tried again, as a connection that fails is.
 */
export type TokenSource = string | (() => string | null | Promise<string | null>);

/** A token with less left than this is not shown any more: it could be over when it arrives. */
const SPARE_MS = 5_000;
/** How long before its end a token is renewed; a short-lived one after four fifths of its life. */
const RENEW_BEFORE_MS = 60_000;
/** A token that this clock takes for over and the server does not: the clock is wrong, and must not make a storm. */
const WRONG_CLOCK_MS = 30_000;

const JWT = /^[\w-]+\.[\w-]+\.[\w-]+$/;

/** Timers beyond this would fire at once: their delay is a signed number of 32 bits. */
const TIMER_MAX_MS = 2 ** 31 - 1;

export class Token {
  #current: string | null = null;
  #endsAt = 0;
  /** Counts what was dropped: an answer to a question from before is not taken. */
  #turn = 0;

  declare source: TokenSource;
  #clock: Clock;

  constructor(source: TokenSource, clock: Clock) {
    this.source = source;
    this.#clock = clock;
  }

  /** Whether there is a way to another one. */
  get renewable(): boolean {
    return typeof this.source === "function";
  }

  /** The current token, or another one where that is over, or `isAnew` is wished. The current one stays until the next is there. */
  async take(isAnew?: boolean): Promise<string | null> {
    if (typeof this.source !== "function") return this.source;
    if (isAnew || !this.#current || this.#endsAt - SPARE_MS <= this.#clock.now()) {
      const turn = this.#turn;
      const token = await this.source();
      if (turn !== this.#turn) return this.take();
      // Hardly ever a wrong token, but the error page of a backend that is not well: it will be.
      if (token !== null && !JWT.test(token)) throw "this is no token";
      this.#current = token;
      this.#endsAt = endsAt(token, this.#clock.now());
    }
    return this.#current;
  }

  /** It is not to be used again. */
  drop(): void {
    this.#current = null;
    this.#turn += 1;
  }

  /** How long to wait before it is renewed, for a token that the server says ends at `expiresAt`. */
  renewInMs(expiresAt: number): number {
    const leftMs = Math.min(expiresAt, this.#endsAt || Infinity) - this.#clock.now();
    return leftMs > 0 ? Math.min(Math.max(leftMs - RENEW_BEFORE_MS, leftMs * 0.8), TIMER_MAX_MS) : WRONG_CLOCK_MS;
  }
}

/** By this clock. The token's whole life counted from now is an end as well, for a clock that is behind. */
function endsAt(token: string | null, now: number): number {
  try {
    const claims = token!.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    const { exp, iat } = JSON.parse(atob(claims)) as { exp: number; iat?: number };
    return Math.min(exp * 1_000, iat === undefined ? Infinity : now + (exp - iat) * 1_000);
  } catch {
    return Infinity; // Not readable: the server will say what is wrong with it.
  }
}
