// How long things wait, and how many may: all limits of the core, with the reason for each. Numbers only, so that a build puts them where they are used.

// The connection.
/** An attempt that is not connected by then is given up. */
export const CONNECT_WITHIN_MS = 10_000;
/** Where there is a fallback, no WebSocket is waited for any longer. The server says something within 5 s, if only that it can't. */
export const SPEAK_WITHIN_MS = 6_000;
/** One that fails after so long was not refused but swallowed: the fallback finds out at once. */
export const SWALLOWED_MS = 3_000;
/** A connection that lived this long was a stable one: the backoff starts anew. */
export const STABLE_MS = 10_000;
/** A page can't see the server's pings, so it asks now and then whether the other end is still there. */
export const PING_EVERY_MS = 25_000;
export const PONG_WITHIN_MS = 10_000;
/** After a sleep, or when the network changed, a dead socket is to be found out soon. */
export const PONG_WITHIN_WAKING_MS = 4_000;
/**
 * So many attempts in a row over WebSocket that end before the server spoke: it may be blocked, or the server away. The fallback
 * finds out which. Where it was blocked before, one is enough.
 */
export const BLOCKED_AFTER = 2;
/** How the fallback says that it is not needed any more. No server sends it. */
export const WEBSOCKET_WORKS = 4299;
/** The `ref` of a `refresh`; all others count from 1. */
export const RENEWAL = 0;

// Coming back.
/** Attempts wait a random time up to 1, 2, 4, … seconds, so that many clients don't come back in step. */
export const BACKOFF_FIRST_MS = 1_000;
export const BACKOFF_MAX_MS = 30_000;

// Publishes.
/** The server knows a key for two minutes or more, from when it was stored; a repetition takes some time to arrive. */
export const KEY_KNOWN_MS = 100_000;
/** A part of the SDK that could not be loaded is asked for again. */
export const LOAD_AGAIN_MS = 5_000;

// Rooms.
/** An iterator that lags behind by more messages than this ends. */
export const ITERATOR_BUFFER_MAX = 10_000;
/** Resumes in a row that the server could not honour; then the room goes on from its head. */
export const GAPS_MAX = 3;
/** The most messages that one `history` answers. */
export const HISTORY_LIMIT_MAX = 1_000;

// The client.
export const QUEUE_LIMIT = 1_000;
