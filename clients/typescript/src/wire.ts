// What rooms need of the client that they belong to.

import type { Connection } from "./connection.js";
import type { CarillonError } from "./error.js";
import type { Frame } from "./frames.js";

export interface AskOptions {
  /** The payload as JSON: it is put into the frame as it is. */
  payload?: string;
  /** Sent again after a reconnect, and after errors that pass. */
  again?: boolean;
  /** `join` and `leave` are not paced. */
  atOnce?: boolean;
}

export interface Wire {
  readonly connection: Connection;
  /** How many publishes wait, in all rooms. */
  _queued: number;
  readonly _queueLimit: number;
  /** Sends a frame with a `ref`; its answer goes to one of the two. */
  _ask(frame: object, options: AskOptions, done: (answer: Frame) => void, failed: (error: CarillonError, answer: Frame) => void): void;
  /** Connects, if nobody asked for that yet. Throws what it stopped by. */
  _need(): void;
}
