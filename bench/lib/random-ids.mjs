// Token ids for the benchmarks.

/** A small seeded generator (mulberry32): data must not change from run to run. ids(count) gives the next ones. */
export function randomIds(seed, vocabulary) {
  let state = seed;
  return (count) =>
    Array.from({ length: count }, () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let x = Math.imul(state ^ (state >>> 15), state | 1);
      x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
      return ((x ^ (x >>> 14)) >>> 0) % vocabulary;
    });
}
