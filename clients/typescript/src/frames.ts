// What travels, as types: the frames of PROTOCOL.md that the SDK reads.

/** A message of a room, as it is stored. */
export interface Message<T = unknown> {
  room: string;
  /** Its place in the room: 1, 2, 3, … without holes. */
  offset: number;
  payload: T;
  /** Who sent it: the `sub` of the sender's token. */
  sender: string;
  /** UUID version 7. */
  id: string;
  /** When it was stored, Unix milliseconds. */
  ts: number;
  /** Its sender is the user of this connection. */
  own: boolean;
  /** The idempotency key, if this client published it and still knows. */
  key?: string;
}

/** A message that is not stored: it has no offset, and may be lost. */
export interface Ephemeral<E = unknown> {
  room: string;
  payload: E;
  sender: string;
  /** When it passed the server, Unix milliseconds. */
  ts: number;
}

/** Where a message was stored. */
export interface Published {
  offset: number;
  id: string;
  /** Unix milliseconds. */
  ts: number;
  /** It was stored already, by an earlier publish with the same key. */
  duplicate?: true;
}

/** A part of a room, oldest first. */
export interface History<T = unknown> {
  messages: Message<T>[];
  /** There are further ones in the direction asked: older ones, when neither was. */
  more: boolean;
  epoch: string;
}

/** A user in a room. */
export interface Member {
  userId: string;
  /** The small object `info` of the user's token. */
  info?: Record<string, unknown>;
  /** How many connections of the user are in the room, where the server told. */
  connections?: number;
}

/** Who is in a room. */
export interface Presence {
  /** How many users. */
  count: number;
  /** Their names; at most 200 of them, or those that came and went since. */
  members: Member[];
  /** There are more than are named. */
  truncated: boolean;
}

/** A place in one life of a room's log: everything up to this offset was seen. */
export interface Position {
  offset: number;
  epoch: string;
}

/** Messages that this client can no longer get. */
export interface Gap {
  room: string;
  /**
   * `trimmed`: retention took the messages between `after` and `before`.
   * `epoch`: the room began another life; what was shown belongs to an earlier one, and offsets start at 1 again.
   */
  reason: "trimmed" | "epoch";
  /** The last offset that was seen. */
  after: number;
  /** The first offset that comes next. */
  before: number;
  /** The life of the room that goes on. */
  epoch: string;
}

/** What this server allows a connection. */
export interface Limits {
  frameBytes: number;
  rooms: number;
  framesPerSecond: number;
  /** At once, where that is less than in a second. */
  framesBurst?: number;
}

/** @internal Any frame of the server; which fields are there depends on its `type`. */
export interface Frame {
  type: string;
  ref?: number;
  room: string;
  offset: number;
  epoch: string;
  id: string;
  ts: number;
  payload: unknown;
  sender: string;
  key?: string;
  ephemeral?: true;
  duplicate?: true;
  recovered: boolean;
  reason?: "trimmed" | "epoch";
  members?: Member[];
  truncated?: true;
  count: number;
  user: { id: string; info?: Record<string, unknown> };
  messages: Omit<Message, "own">[];
  more: boolean;
  code: string;
  message: string;
  outcome?: "unknown";
  retryAfterMs?: number;
  userId: string;
  expiresAt?: number;
  limits: Limits;
}
