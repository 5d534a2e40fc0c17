// Everything random on the TypeScript side: seeds of the stages, shuffles and coin flips. Each is a pure function of the
// run's seed and a name, so that no stage's draws depend on what ran before it.

import { createHash } from 'node:crypto';

/** A seed for `name` under `seed`: 48 bits, so it is exact as a number. */
export function deriveSeed(seed: number, ...name: (string | number)[]): number {
  const digest = createHash('sha256')
    .update(JSON.stringify([seed, ...name]))
    .digest();
  return digest.readUIntBE(0, 6);
}

/** Numbers in [0, 1) from a seed of at most 48 bits (mulberry32 over its low and high halves). */
export function randomNumbers(seed: number): () => number {
  let state = (seed ^ Math.floor(seed / 2 ** 32)) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A shuffled copy (Fisher-Yates). */
export function shuffled<T>(items: readonly T[], seed: number): T[] {
  const random = randomNumbers(seed);
  const copy = [...items];
  for (let i = copy.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [copy[i], copy[j]] = [copy[j] as T, copy[i] as T];
  }
  return copy;
}
