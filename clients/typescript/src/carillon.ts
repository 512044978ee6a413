// The client: one connection, the rooms on it, and what was asked and is not answered yet.

import { type Clock, realClock } from "./clock.js";
import { Connection, type WebSocketLike } from "./connection.js";
import { CarillonError, mayRetry } from "./error.js";
import type { Frame } from "./frames.js";
import { backoffMs } from "./retry.js";
import { Room, type RoomOptions } from "./room.js";
import type { TokenSource } from "./token.js";
import type { AskOptions } from "./wire.js";
import { QUEUE_LIMIT } from "./limits.js";

export interface CarillonOptions {
  /** Where the server is: `https://live.example.com`, with a path if it has one. In a page, by default where the page came from. */
  url?: string | URL;
  /** The token, or a function that gets one from your backend; it is called again before and after a token ends. */
  token: TokenSource;
  /** Names this app instance: 1–64 of `A-Za-z0-9_-`. By default a new one for each client. Two that live at once must differ. */
  clientId?: string;
  /** Attempts in a row to connect again before it stops. By default without end. */
  maxRetries?: number;
  /** Publishes that may wait at the same time, in all rooms; by default 1000. One more is rejected with `queue_full`. */
  queueLimit?: number;
  /** Whether to use Server-Sent Events and HTTP where WebSocket is blocked; by default yes. */
  fallback?: boolean;
  /** A WebSocket for places that have none (Node before 22: the one of the package `ws`). */
  WebSocket?: WebSocketLike;
  /** A `fetch` for the fallback; by default the global one. */
  fetch?: typeof fetch;
  /** Time and chance, for tests. */
  clock?: Clock;
}

interface Ask extends AskOptions {
  text: string;
  attempt: number;
  onAnswer: (answer: Frame) => void;
  onError: (error: CarillonError, answer: Frame) => void;
}

/** A client of a Carillon server. It connects when it is first needed. */
export class Carillon {
  /** The connection: its state, and what the server said about it. */
  declare readonly connection: Connection;

  /** @internal */ _queued = 0;
  /** @internal */ declare _queueLimit: number;
  #clock: Clock;
  #rooms = new Map<string, Room<any, any>>();
  #asks = new Map<number, Ask>();
  #ref = 0;

  constructor(options: CarillonOptions) {
    this.#clock = options.clock ?? realClock;
    this._queueLimit = options.queueLimit ?? QUEUE_LIMIT;
    this.connection = new Connection(options, this.#clock, this);
  }

  /**
   * The room of that name, the same one for the same name. It is joined when somebody listens. Options that are given later hold
   * from then on; `last` and `since` do so as long as no message was told.
   */
  room<T = unknown, E = unknown>(name: string, options: RoomOptions = {}): Room<T, E> {
    let room = this.#rooms.get(name);
    if (!room) this.#rooms.set(name, (room = new Room(name, this, this.#clock)));
    room._want(options);
    return room;
  }

  /** Connects now: for the first time, instead of waiting for the next attempt, or after it stopped. */
  connect(): void {
    this.connection._open();
  }

  /**
   * Takes another token, or asks `token` for one: a live connection goes on with it; one that has stopped is opened again.
   */
  refresh(token?: TokenSource): void {
    const { connection } = this;
    if (token !== undefined) connection._token.source = token;
    connection._token.drop();
    if (connection.state === "connected") void connection._renew();
    else connection._open(true);
  }

  /** Ends for good. What waits to be published is rejected with `closed`. */
  close(): void {
    this.connection._close();
  }

  /** @internal */
  _need(): void {
    const { state, error } = this.connection;
    if (state === "stopped" || state === "closed") throw error;
    this.connection._start();
  }

  /** @internal */
  _ask(frame: object, options: AskOptions, onAnswer: Ask["onAnswer"], onError: Ask["onError"]): void {
    const ref = ++this.#ref;
    let text = JSON.stringify({ ...frame, ref });
    if (options.payload) text = `${text.slice(0, -1)},"payload":${options.payload}}`;
    if (!this.connection._fits(text)) return onError(new CarillonError("payload_too_large", "too large"), {} as Frame);
    const ask = { ...options, text, attempt: 0, onAnswer, onError };
    this.#asks.set(ref, ask);
    this.#send(ask);
  }

  #send({ text, atOnce }: Ask): void {
    this.connection._send(text, false, atOnce);
  }

  /** @internal */
  _onConnected(): void {
    for (const ask of this.#asks.values()) this.#send(ask);
    for (const room of this.#rooms.values()) room._onConnected();
  }

  /** @internal What was refused may be open by now. */
  _onRefreshed(): void {
    for (const room of this.#rooms.values()) if (room.state === "refused") room._onConnected();
  }

  /** @internal */
  _onGone(error?: CarillonError): void {
    for (const [ref, ask] of [...this.#asks]) {
      if (ask.again && !error) continue;
      this.#asks.delete(ref);
      if (ask.again && error) ask.onError(error, {} as Frame);
    }
    for (const room of this.#rooms.values()) room._onGone(error);
  }

  /** @internal */
  _onFrame(frame: Frame): void {
    const ask = this.#asks.get(frame.ref!);
    if (!ask) return this.#rooms.get(frame.room)?._onFrame(frame);
    if (frame.type !== "error") {
      this.#asks.delete(frame.ref!);
      ask.onAnswer(frame);
    } else if (ask.again && mayRetry(frame.code)) {
      const delayMs = frame.retryAfterMs ?? backoffMs(ask.attempt++, this.#clock.random);
      this.#clock.setTimeout(() => this.#asks.has(frame.ref!) && this.#send(ask), delayMs);
    } else {
      this.#asks.delete(frame.ref!);
      ask.onError(new CarillonError(frame.code, frame.message, { outcome: frame.outcome }), frame);
    }
  }
}
