// Over HTTP/1.1 a browser opens six connections to a host for all its tabs together, and a feed holds one for as long as it lives: six
// tabs with a feed, and nothing else gets through, not even what they publish. So few tabs hold feeds, and the others ask now and then.
//
// The tabs agree by Web Locks, which a browser gives back when a tab ends. It has none on pages that are not secure (`http:` other than
// localhost), and there is nothing to agree about outside of browsers and over HTTP/2, where any number of feeds share a connection.

/** Two connections are left for what is asked, and for the next tab that is opened. */
const FEEDS_MAX = 4;

/** Resolves with what gives the place for a feed to `host` back, or with nothing: other tabs have them all. */
export async function takePlace(host: string): Promise<(() => void) | undefined> {
  const locks = globalThis.navigator?.locks;
  const isBrowser = globalThis.document ?? ("WorkerGlobalScope" in globalThis);
  if (!locks || !isBrowser || isShared(host)) return () => {};
  for (let n = 1; n <= FEEDS_MAX; n += 1) {
    const place = await new Promise<(() => void) | undefined>((resolve) => {
      const hold = (lock: Lock | null) => (lock ? new Promise<void>((done) => resolve(done)) : resolve(undefined));
      // A page that may have no locks for some reason of its own is one that can't tell.
      locks.request(`carillon feed ${n} ${host}`, { ifAvailable: true }, hold).catch(() => resolve(() => {}));
    });
    if (place) return place;
  }
  return undefined;
}

/** Whether this page has spoken HTTP/2 or 3 to the host, as far as it may know. */
function isShared(host: string): boolean {
  const entries = ["navigation", "resource"].flatMap((type) => globalThis.performance.getEntriesByType(type)) as PerformanceResourceTiming[];
  return entries.some(({ name, nextHopProtocol }) => /^h[23]/.test(nextHopProtocol) && new URL(name).host === host);
}
