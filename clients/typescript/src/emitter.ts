// Who wants to be told what. Knows nothing of what is told.

export type Listener<T> = (told: T) => void;

/** Something that tells its listeners what happens to it. `Kinds` maps each kind to what its listeners get. */
export class Emitter<Kinds> {
  #listeners = new Map<keyof Kinds, Set<Listener<never>>>();

  /** Calls `listener` from now on. Returns the function that ends it. The same function is called once, however often it was given. */
  on<Kind extends keyof Kinds>(kind: Kind, listener: Listener<Kinds[Kind]>): () => void {
    const all = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, all.add(listener));
    return () => void all.delete(listener);
  }

  /** @internal Whether somebody listens. */
  _has(kind: keyof Kinds): boolean {
    return Boolean(this.#listeners.get(kind)?.size);
  }

  /** @internal */
  _emit<Kind extends keyof Kinds>(kind: Kind, told: Kinds[Kind]): void {
    for (const listener of [...(this.#listeners.get(kind) ?? [])] as Listener<Kinds[Kind]>[]) {
      try {
        listener(told);
      } catch (error) {
        // A listener's mistake is an uncaught exception, as it would be anywhere. It must not end our counting.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
