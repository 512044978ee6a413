// One socket at a time, opened again for as long as the server's closes allow. Knows nothing of rooms: frames come
// in and go out as they are.

import type { CarillonOptions } from "./carillon.js";
import { type Clock, randomId } from "./clock.js";
import { Emitter } from "./emitter.js";
import { CarillonError } from "./error.js";
import type { Frame, Limits } from "./frames.js";
import { Pace } from "./pace.js";
import { afterClose, backoffMs } from "./retry.js";
import { Token } from "./token.js";
import { CONNECT_WITHIN_MS, SPEAK_WITHIN_MS, SWALLOWED_MS, STABLE_MS, PING_EVERY_MS, PONG_WITHIN_MS, PONG_WITHIN_WAKING_MS, BLOCKED_AFTER, WEBSOCKET_WORKS, RENEWAL } from "./limits.js";

/**
 * `idle`: not asked for yet. `connecting`: an attempt is under way. `connected`: frames flow. `waiting`: for the next
 * attempt, at `retryAt`. `stopped`: `error` says why; only `connect()` tries again. `closed`: by `close()`, for good.
 */
export type ConnectionState = "idle" | "connecting" | "connected" | "waiting" | "stopped" | "closed";

/** @internal Whom a connection tells. */
export interface Owner {
  _onFrame(frame: Frame): void;
  /** Frames can be sent now. */
  _onConnected(): void;
  /** The socket is gone; `error` if the connection will not come back by itself. */
  _onGone(error?: CarillonError): void;
  /** The server took a newer token. */
  _onRefreshed(): void;
}

/** What the SDK needs of a WebSocket; the browser's has it, and so has the one of the package `ws`. */
export interface SocketLike {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(): void;
}

export type WebSocketLike = new (url: string, protocols: string[]) => SocketLike;

type TimerName = "retry" | "connect" | "ping" | "pong" | "renew";

/** Until the server has told. */
const DEFAULT_LIMITS: Limits = { frameBytes: 65_536, rooms: 256, framesPerSecond: 50 };

/** The connection of a client: its state, and what the server said about it. */
export class Connection extends Emitter<{
  /** The state is another one. */
  change: ConnectionState;
}> {
  /** What it is doing. */
  state: ConnectionState = "idle";
  /** Why it stopped, or why the last attempt failed. */
  declare error: CarillonError | undefined;
  /** While `waiting`: when the next attempt is due, Unix milliseconds. */
  retryAt = 0;
  /** The way in that is used. */
  transport: "websocket" | "sse" = "websocket";
  /** The token's user, once it was connected. */
  declare userId: string | undefined;
  /** Names this app instance over all its reconnects: by it, others' messages are told from its own. */
  declare readonly clientId: string;
  /** When the token ends, Unix milliseconds. */
  declare expiresAt: number | undefined;
  limits: Limits = DEFAULT_LIMITS;

  /** @internal */ declare _token: Token;
  #options: CarillonOptions;
  #clock: Clock;
  #owner: Owner;
  #url: URL;
  #socket: SocketLike | undefined;
  #pace: Pace | undefined;
  /** Counts attempts; what belongs to an earlier one is not heard any more. */
  #turn = 0;
  #retries = 0;
  /** When the socket was made, or connected. */
  #since = 0;
  #isTold = false;
  #drainMs: number | undefined;
  #blocked = 0;
  #blockedAfter = BLOCKED_AFTER;
  #timers: Partial<Record<TimerName, unknown>> = {};
  /** There while it is not idle, stopped or closed. */
  #listening: AbortController | undefined;

  /** @internal */
  constructor(options: CarillonOptions, clock: Clock, owner: Owner) {
    super();
    this.#owner = owner;
    this.#options = options;
    this.#clock = clock;
    this.#url = baseOf(options.url);
    this.clientId = options.clientId ?? randomId();
    this._token = new Token(options.token, clock);
  }

  /** @internal */
  _start(): void {
    if (this.state === "idle") this._open();
  }

  /** @internal Opens now, whatever it was waiting for; `isAnew`: also in the place of an attempt that is under way. */
  _open(isAnew?: boolean): void {
    if (this.state === "closed" || this.state === "connected" || (this.state === "connecting" && !isAnew)) return;
    this.#abandon();
    this.#listening ??= listenToSurroundings(() => this.#wake());
    this.error = undefined;
    void this.#attempt();
  }

  /** @internal Ends for good. */
  _close(): void {
    this.#end("closed", new CarillonError("closed", "closed"));
  }

  /**
   * Drops the socket as if the network had gone, and comes back after `awayMs`. For tests and demonstrations: nothing
   * is lost by it.
   */
  drop(awayMs = 0): void {
    if (!this.#listening) return;
    this.#abandon();
    this.#wait(awayMs, true);
  }

  /**
   * @internal False: it was not sent. `isDroppable`: now or not at all. `isAtOnce`: joins and leaves have an allowance of
   * their own, as large as the number of rooms.
   */
  _send(text: string, isDroppable?: boolean, isAtOnce?: boolean): boolean {
    if (this.state !== "connected") return false;
    const write = () => this.#socket!.send(text);
    return isAtOnce ? (write(), true) : this.#pace!.take(write, isDroppable);
  }

  /** @internal Calls `run` when a frame may be sent `isAtOnce`: now, later, or never if the connection ends before. */
  _turn(run: () => void): void {
    this.#pace!.take(run);
  }

  /** @internal A larger frame would end the connection. */
  _fits(text: string): boolean {
    return new TextEncoder().encode(text).length <= this.limits.frameBytes;
  }

  /** @internal Brings a newer token while everything goes on, or connects with it. */
  async _renew(): Promise<void> {
    const turn = this.#turn;
    try {
      const next = await this._token.take(true);
      if (turn !== this.#turn || this.state !== "connected") return;
      if (next === null) return this.#end("stopped", signedOut());
      this._send(JSON.stringify({ type: "refresh", ref: RENEWAL, token: next }));
    } catch {
      if (turn === this.#turn) this.#renewIn();
    }
  }

  async #attempt(): Promise<void> {
    const turn = ++this.#turn;
    this.#clear();
    this.#drainMs = undefined;
    // From here on: getting a token may take for ever as well.
    this.#after("connect", CONNECT_WITHIN_MS, () => this.#onClose(1006, ""));
    this.#enter("connecting");
    try {
      const token = await this._token.take();
      if (turn !== this.#turn) return;
      if (!token) return this.#end("stopped", signedOut());
      const socket = await this.#makeSocket(token);
      if (turn !== this.#turn) return socket.close();
      this.#socket = socket;
      this.#since = this.#clock.now();
      if (this.#isPlain()) this.#after("connect", SPEAK_WITHIN_MS, () => this.#onClose(1006, ""));
    } catch (error) {
      if (turn !== this.#turn) return;
      if (error instanceof CarillonError) return this.#end("stopped", error);
      this.error = new CarillonError("unavailable", String(error));
      if (this.transport === "sse") this.#blocked += 1;
      return this.#retry();
    }
    const socket = this.#socket;
    socket.onmessage = ({ data }) => this.#onFrame(JSON.parse(data) as Frame);
    socket.onclose = ({ code, reason }) => this.#onClose(code, reason);
    socket.onerror = () => {}; // What matters comes as a close.
  }

  /** Attempts that WebSocket failed, one over the fallback, and so on, until one of them works. */
  async #makeSocket(token: string): Promise<SocketLike> {
    const { WebSocket = globalThis.WebSocket as WebSocketLike | undefined, fallback } = this.#options;
    const isBlocked = fallback !== false && (!WebSocket || this.#blocked % (this.#blockedAfter + 1) === this.#blockedAfter);
    this.transport = isBlocked ? "sse" : "websocket";
    // A subprotocol is the one header that a page can set, and no proxy writes it to a log.
    const make = () => new WebSocket!(`${this.#url.href.replace("http", "ws")}ws?client=${this.clientId}`, ["carillon.v1", "carillon.token." + token]);
    if (isBlocked) return (await import("./fallback.js")).open(this.#url, token, this.#options, this.#clock, this.clientId, WebSocket && make);
    try {
      return make();
    } catch (error) {
      // No WebSocket here, or characters in the token that none has.
      throw new CarillonError(WebSocket ? "unauthorized" : "unsupported", String(error));
    }
  }

  #onFrame(frame: Frame): void {
    this.#clock.clearTimeout(this.#timers.pong);
    this.#timers.pong = undefined;
    if (frame.type === "connected") this.#onConnected(frame);
    else if (frame.type === "draining") this.#drainMs = frame.retryAfterMs;
    else if (frame.ref === RENEWAL) this.#onRenewed(frame);
    else this.#owner._onFrame(frame);
  }

  #onConnected(frame: Frame): void {
    this.#clock.clearTimeout(this.#timers.connect);
    this.userId = frame.userId;
    this.limits = { ...DEFAULT_LIMITS, ...frame.limits };
    this.#since = this.#clock.now();
    this.#pace = new Pace(this.#clock, this.limits);
    const isWebSocket = this.transport === "websocket";
    this.#blocked = isWebSocket ? 0 : 1;
    this.#blockedAfter = isWebSocket ? BLOCKED_AFTER : 1;
    this.#expires(frame.expiresAt);
    this.#after("ping", PING_EVERY_MS, () => this.#ping(PONG_WITHIN_MS));
    this.error = undefined;
    this.#enter("connected");
    this.#owner._onConnected();
  }

  /** The answer to `refresh`. */
  #onRenewed(frame: Frame): void {
    if (frame.type !== "refreshed") return this.#renewIn(frame.retryAfterMs);
    this.#retries = 0;
    this.#expires(frame.expiresAt);
    this.#owner._onRefreshed();
  }

  #renewIn(ms = this.#backoffMs()): void {
    this.#after("renew", ms, () => void this._renew());
  }

  #backoffMs(): number {
    return backoffMs(this.#retries++, this.#clock.random);
  }

  /** Over WebSocket, and there is another way. */
  #isPlain(): boolean {
    return this.transport === "websocket" && this.#options.fallback !== false;
  }

  #expires(expiresAt: number | undefined): void {
    this.expiresAt = expiresAt;
    if (expiresAt && this._token.renewable) this.#renewIn(this._token.renewInMs(expiresAt));
  }

  #ping(pongWithinMs: number): void {
    this.#after("ping", PING_EVERY_MS, () => this.#ping(PONG_WITHIN_MS));
    if (!this.#timers.pong) this.#after("pong", pongWithinMs, () => this.#onClose(1006, ""));
    this._send('{"type":"ping"}');
  }

  /** The page is looked at again, or the network came back: no time to wait, and the socket may be a dead one. */
  #wake(): void {
    if (this.state === "waiting") {
      // A delay that the server told is honoured.
      if (!this.#isTold && globalThis.navigator?.onLine !== false) void this.#attempt();
    } else if (this.state === "connected") {
      this.#ping(PONG_WITHIN_WAKING_MS);
    }
  }

  #onClose(code: number, reason: string): void {
    const wasConnected = this.state === "connected";
    const livedMs = this.#clock.now() - this.#since;
    if (wasConnected && livedMs >= STABLE_MS) this.#retries = 0;
    // Codes of 4000 and above are the server's own: it was reached. Without a socket, it was not asked.
    const isBlocked = !wasConnected && code < 4000 && this.#socket;
    const isSwallowed = isBlocked && this.#isPlain() && livedMs >= SWALLOWED_MS;
    if (isSwallowed) this.#blocked = this.#blockedAfter;
    else if (isBlocked) this.#blocked += 1;
    if (code === WEBSOCKET_WORKS) this.#blocked = 0;
    this.#abandon();
    const next = afterClose(code, reason, this.#drainMs, this.#clock.random);
    const stop = typeof next === "string" && next;
    const error = (this.error = new CarillonError(stop || "unavailable", `closed: ${code} ${reason}`, { closeCode: code }));
    if (code === 4004 && this._token.renewable) {
      this._token.drop();
      // At once, unless tokens end as soon as they are shown.
      this.#retry(this.#retries ? undefined : 0);
    } else if (stop) this.#end("stopped", error);
    // Where WebSocket is known to be blocked, it and the fallback are one attempt.
    else if (next === undefined && (isSwallowed || (isBlocked && this.#blockedAfter === 1 && this.transport === "websocket"))) this.#wait(0);
    else if (next === undefined) this.#retry();
    else this.#wait(next as number, true);
  }

  #retry(delayMs?: number): void {
    const ms = this.#backoffMs();
    if (this.#retries <= (this.#options.maxRetries ?? Infinity)) this.#wait(delayMs ?? ms);
    else this.#end("stopped", new CarillonError("gave_up", "too many attempts"));
  }

  #wait(delayMs: number, isTold = false): void {
    this.#turn += 1;
    this.#isTold = isTold;
    this.retryAt = this.#clock.now() + delayMs;
    this.#after("retry", delayMs, () => void this.#attempt());
    this.#enter("waiting");
  }

  #end(state: "stopped" | "closed", error: CarillonError): void {
    this.#turn += 1;
    this.#retries = 0;
    this.#abandon(error);
    this.#listening?.abort();
    this.#listening = undefined;
    this.error = error;
    this.#enter(state);
  }

  /** Lets go of the socket: nothing that it still says is heard. */
  #abandon(error?: CarillonError): void {
    const socket = this.#socket;
    this.#socket = undefined;
    this.#clear();
    this.#pace?.onGone();
    if (socket) {
      socket.onmessage = socket.onclose = socket.onopen = null;
      socket.close();
    }
    // Whoever is told must not find it connected.
    if (this.state === "connected") this.state = "waiting";
    this.#owner._onGone(error);
  }

  #after(name: TimerName, ms: number, run: () => void): void {
    this.#clock.clearTimeout(this.#timers[name]);
    this.#timers[name] = this.#clock.setTimeout(() => {
      this.#timers[name] = undefined;
      run();
    }, ms);
  }

  #clear(): void {
    for (const timer of Object.values(this.#timers)) this.#clock.clearTimeout(timer);
    this.#timers = {};
  }

  #enter(state: ConnectionState): void {
    this.state = state;
    this._emit("change", state);
  }
}

/** The address under which `ws`, `events` and `rooms` are found. */
function baseOf(url: string | URL = globalThis.location?.origin): URL {
  return new URL(String(url).replace(/^ws/, "http").replace(/\/(ws)?$/, "") + "/");
}

function signedOut(): CarillonError {
  return new CarillonError("unauthorized", "no token");
}

/** Calls `wake` when the network comes or goes, and when the page is looked at again. */
function listenToSurroundings(wake: () => void): AbortController {
  const ending = new AbortController();
  const { signal } = ending;
  const page = globalThis.document;
  page?.addEventListener("visibilitychange", () => page.visibilityState === "visible" && wake(), { signal });
  // Node has no network to listen to.
  if (globalThis.addEventListener!) for (const what of ["online", "offline"]) addEventListener(what, wake, { signal });
  return ending;
}
