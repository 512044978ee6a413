// What some tests need beside the product. Where it is missing they fail, unless whoever runs them said that they may be skipped:
// `CARILLON_SKIP=nats,python`.

const skipped = (process.env.CARILLON_SKIP ?? "").split(",");

/** For the option `skip` of a test. */
export function unlessThere(what, isThere, mend) {
  if (isThere) return false;
  if (skipped.includes(what)) return `CARILLON_SKIP has ${what}`;
  throw new Error(`no ${what}: ${mend}, or say CARILLON_SKIP=${what}`);
}
