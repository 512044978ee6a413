// Hooks for React 18 and newer. They keep lists for components; what happens on the wire is the client's. Components that use
// the same room share one list, and the room is left when the last of them is gone.

import { useCallback, useEffect, useState, useSyncExternalStore } from "react";
import type { Carillon } from "./carillon.js";
import type { ConnectionState } from "./connection.js";
import type { CarillonError } from "./error.js";
import type { Gap, Message, Presence, Published } from "./frames.js";
import type { PublishOptions, Room, RoomOptions, RoomState } from "./room.js";

/** Messages kept in a list when they come in; older ones that were asked for are not counted. */
const KEEP = 1_000;
const EARLIER_LIMIT = 50;

export interface UseRoomOptions extends Omit<RoomOptions, "since"> {
  /** The newest messages that the list keeps, by default 1000. */
  keep?: number;
}

/** A publish that has no place in the room yet. */
export interface Pending<T> {
  key: string;
  payload: T;
}

/** A publish that was rejected. `publish(payload, { key })` tries it again. */
export interface Failed<T> extends Pending<T> {
  error: CarillonError;
}

export interface RoomView<T> {
  /** In order, without holes; one's own included. */
  messages: readonly Message<T>[];
  /** What was published here and is not stored yet, in order. */
  pending: readonly Pending<T>[];
  /** What was published here and was rejected, until it is published again or `discard`ed. */
  failed: readonly Failed<T>[];
  state: RoomState;
  /** Why the room is `refused`. */
  error: CarillonError | undefined;
  /** The last gap: messages that could no longer be had. */
  gap: Gap | undefined;
  /** There may be older messages. */
  hasEarlier: boolean;
}

export interface UseRoom<T, E> extends RoomView<T> {
  room: Room<T, E>;
  /** As `room.publish`, and shown in `pending` meanwhile; what is rejected stands in `failed`. */
  publish(payload: T, options?: PublishOptions): Promise<Published>;
  /** Takes a publish out of `failed`. */
  discard(key: string): void;
  /** Puts older messages before the list. */
  loadEarlier(): Promise<void>;
}

/**
 * The messages of a room, from the newest `last` (by default 50) on. Where several components use a room, the first one's `last` and
 * `keep` hold, and the `reload` that was given last.
 */
export function useRoom<T = unknown, E = unknown>(carillon: Carillon, name: string, options?: UseRoomOptions): UseRoom<T, E> {
  const store = storesOf(carillon).room(name, options) as RoomStore<T, E>;
  const view = useSyncExternalStore(store.subscribe, store.view, store.view);
  return { ...view, room: store.room, publish: store.publish, discard: store.discard, loadEarlier: store.loadEarlier };
}

/** Who is in a room; undefined until that is known. */
export function usePresence(carillon: Carillon, name: string): Presence | undefined {
  const store = storesOf(carillon).presence(name);
  return useSyncExternalStore(store.subscribe, store.view, store.view);
}

/** What the connection is doing. */
export function useConnection(carillon: Carillon): ConnectionState {
  const { connection } = carillon;
  const subscribe = useCallback((changed: () => void) => connection.on("change", changed), [connection]);
  return useSyncExternalStore(subscribe, () => connection.state, () => connection.state);
}

/**
 * A value that others in the room tell by `ephemeral` messages, by sender; each is forgotten `forgetAfterMs` after it was
 * told for the last time. For typing and cursors.
 */
export function useEphemeral<E>(room: Room<any, E>, forgetAfterMs = 5_000): ReadonlyMap<string, E> {
  const [told, setTold] = useState<ReadonlyMap<string, E>>(new Map());
  useEffect(() => {
    const timers = new Map<string, ReturnType<typeof setTimeout>>();
    const change = (sender: string, act: (map: Map<string, E>) => void) => {
      clearTimeout(timers.get(sender));
      setTold((before) => {
        const after = new Map(before);
        act(after);
        return after;
      });
    };
    const unlisten = [
      room.on("ephemeral", ({ sender, payload }) => {
        change(sender, (map) => map.set(sender, payload));
        timers.set(sender, setTimeout(() => change(sender, (map) => map.delete(sender)), forgetAfterMs));
      }),
      // Who has sent a message has stopped typing it.
      room.on("message", ({ sender }) => change(sender, (map) => map.delete(sender))),
    ];
    return () => {
      for (const end of unlisten) end();
      for (const timer of timers.values()) clearTimeout(timer);
      setTold(new Map());
    };
  }, [room, forgetAfterMs]);
  return told;
}

// ------------------------------------------------------------------------------------------------------ stores

/** Something that components look at, for as long as one of them does. */
abstract class Store<View> {
  protected _view: View;
  #changed = new Set<() => void>();
  #unlisten: (() => void)[] | undefined;

  constructor(view: View) {
    this._view = view;
  }

  view = (): View => this._view;

  subscribe = (changed: () => void): (() => void) => {
    this.#changed.add(changed);
    this.#unlisten ??= this._listen();
    return () => {
      this.#changed.delete(changed);
      // Not at once: StrictMode, and a change of page, take a component out and put it back.
      setTimeout(() => {
        if (this.#changed.size > 0 || !this.#unlisten) return;
        for (const end of this.#unlisten) end();
        this.#unlisten = undefined;
        this._onUnused();
      });
    };
  };

  protected _show(view: View): void {
    this._view = view;
    for (const changed of this.#changed) changed();
  }

  protected abstract _listen(): (() => void)[];
  protected abstract _onUnused(): void;
}

class RoomStore<T, E> extends Store<RoomView<T>> {
  #keep: number;
  /** Older messages that were asked for; they don't count. */
  #earlier = 0;
  #last: number;
  #stores: Stores;
  #isLoading = false;

  constructor(
    readonly room: Room<T, E>,
    keep: number,
    last: number,
    stores: Stores,
  ) {
    super(emptyOf(room));
    this.#keep = Math.max(1, keep);
    this.#last = last;
    this.#stores = stores;
  }

  publish = (payload: T, options: PublishOptions = {}): Promise<Published> => {
    const key = options.key ?? crypto.getRandomValues(new Uint32Array(4)).join("-");
    this.discard(key);
    this.#change({ pending: [...this._view.pending, { key, payload }] });
    const published = this.room.publish(payload, { ...options, key });
    published.then(
      () => this.#settle(key),
      (error: CarillonError) => {
        this.#settle(key);
        this.#change({ failed: [...this._view.failed, { key, payload, error }] });
      },
    );
    return published;
  };

  discard = (key: string): void => {
    const failed = this._view.failed.filter((publish) => publish.key !== key);
    if (failed.length < this._view.failed.length) this.#change({ failed });
  };

  loadEarlier = async (): Promise<void> => {
    const first = this._view.messages[0];
    if (first && this._view.hasEarlier) this.#earlier += await this.#load(first.offset, EARLIER_LIMIT);
  };

  /** How many were put before the list. */
  async #load(before: number, limit: number): Promise<number> {
    if (this.#isLoading || before === 1 || limit === 0) return 0;
    this.#isLoading = true;
    try {
      const { messages, more, epoch } = await this.room.history({ before, limit });
      const first = this._view.messages[0];
      // The room may have begun another life meanwhile.
      if (epoch !== this.room.position?.epoch || (first && first.offset !== before)) return 0;
      this.#change({ messages: [...messages, ...this._view.messages], hasEarlier: more });
      return messages.length;
    } catch {
      this.#change({ hasEarlier: false }); // Not for this user to read.
    } finally {
      this.#isLoading = false;
    }
    return 0;
  }

  protected _listen(): (() => void)[] {
    this.#stores.hold(this.room);
    // The room may be joined already, for its presence or by the app itself: what was told then is in its history.
    const { position } = this.room;
    if (position) void this.#load(position.offset + 1, this.#last);
    return [
      this.room.on("change", (state) => {
        // Left by the app itself: who joins again begins anew.
        if (state === "idle") this.#empty();
        this.#change({ state, error: this.room.error });
      }),
      this.room.on("message", (message) => this.#onMessage(message)),
      this.room.on("gap", (gap) => {
        this.#empty();
        this.#change({ gap, hasEarlier: gap.reason !== "epoch" });
      }),
    ];
  }

  protected _onUnused(): void {
    this.#stores.release(this.room);
    this.#empty();
  }

  /** What was said here and is not stored stays. */
  #empty(): void {
    const { pending, failed } = this._view;
    this.#earlier = 0;
    this._view = { ...emptyOf(this.room), pending, failed };
  }

  #onMessage(message: Message<T>): void {
    const { pending } = this._view;
    const messages = [...this._view.messages, message].slice(-this.#keep - this.#earlier);
    this.#change({ messages, pending: pending.filter(({ key }) => key !== message.key), hasEarlier: messages[0]!.offset > 1 });
  }

  #settle(settled: string): void {
    const pending = this._view.pending.filter(({ key }) => key !== settled);
    if (pending.length < this._view.pending.length) this.#change({ pending });
  }

  #change(change: Partial<RoomView<T>>): void {
    this._show({ ...this._view, ...change });
  }
}

function emptyOf(room: Room<any, any>): RoomView<never> {
  return { messages: [], pending: [], failed: [], state: room.state, error: room.error, gap: undefined, hasEarlier: false };
}

class PresenceStore extends Store<Presence | undefined> {
  constructor(
    private readonly _room: Room<any, any>,
    private readonly _stores: Stores,
  ) {
    super(_room.present);
  }

  protected _listen(): (() => void)[] {
    this._stores.hold(this._room);
    // Known already where the room was watched all the time; nobody tells it again.
    this._view = this._room.present;
    return [
      this._room.on("presence", (present) => this._show(present)),
      // Left by the app itself: nobody knows any more.
      this._room.on("end", () => this._show(this._room.present)),
    ];
  }

  protected _onUnused(): void {
    this._view = undefined;
    this._stores.release(this._room);
  }
}

/** All stores of a client. */
class Stores {
  #rooms = new Map<string, RoomStore<any, any>>();
  #presences = new Map<string, PresenceStore>();
  #holders = new Map<Room<any, any>, number>();

  constructor(private readonly _carillon: Carillon) {}

  room(name: string, { keep = KEEP, last = EARLIER_LIMIT, ...options }: UseRoomOptions = {}): RoomStore<any, any> {
    let store = this.#rooms.get(name);
    if (store && options.reload) this._carillon.room(name, options);
    if (!store) this.#rooms.set(name, (store = new RoomStore(this._carillon.room(name, { last, ...options }), keep, last, this)));
    return store;
  }

  presence(name: string): PresenceStore {
    let store = this.#presences.get(name);
    if (!store) this.#presences.set(name, (store = new PresenceStore(this._carillon.room(name, { last: EARLIER_LIMIT }), this)));
    return store;
  }

  hold(room: Room<any, any>): void {
    this.#holders.set(room, (this.#holders.get(room) ?? 0) + 1);
  }

  release(room: Room<any, any>): void {
    const holders = this.#holders.get(room)! - 1;
    this.#holders.set(room, holders);
    if (holders === 0) room.leave();
  }
}

const stores = new WeakMap<Carillon, Stores>();

function storesOf(carillon: Carillon): Stores {
  let found = stores.get(carillon);
  if (!found) stores.set(carillon, (found = new Stores(carillon)));
  return found;
}
