// What went wrong, in a form that a program can decide by.

/** Codes that the SDK itself makes; all others are the server's (`error` frames and closes, see PROTOCOL.md). */
export type LocalCode =
  /** `close()` was called, or `leave()` of this room. */
  | "closed"
  /** `maxRetries` attempts in a row failed. */
  | "gave_up"
  /** More publishes wait than `queueLimit` allows. */
  | "queue_full"
  /** An iterator was read so slowly that its buffer ran over. */
  | "slow_consumer";

/** A publish that was rejected. With the same `key` it may be published again: what is stored already is not stored twice. */
export interface Unpublished {
  room: string;
  key: string;
  payload: unknown;
}

/** An error of the server, or of the SDK. */
export class CarillonError extends Error {
  override readonly name = "CarillonError";
  /** What went wrong: `forbidden`, `rate_limited`, `token_expired`, `queue_full`, … */
  declare readonly code: string;
  /** The WebSocket's close code, where one ended the connection. */
  declare readonly closeCode?: number;
  /** `unknown`: a publish that may be stored or not. Absent: it is not stored. */
  declare readonly outcome?: "unknown";
  /** What was to be published: as it was given to `publish`, so that it can be shown, kept, or published again. */
  declare readonly publish?: Unpublished;

  constructor(code: LocalCode | (string & {}), message: string, more: { closeCode?: number | undefined; outcome?: "unknown" | undefined; publish?: Unpublished } = {}) {
    super(message);
    this.code = code;
    Object.assign(this, more);
  }
}

/** Errors that say "not now": the same frame may be sent again. */
export function mayRetry(code: string): boolean {
  return /^(unavailable|internal|rate_limited)$/.test(code);
}
