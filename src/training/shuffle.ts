// The order of the data in an epoch: a permutation that depends on the seed and the epoch alone.

import { shuffled } from '../random.js';

/** Numbers below `count` in the order for `epoch`; in their own order unless `shuffle`. */
export function epochOrder(count: number, seed: number, epoch: number, shuffle: boolean): number[] {
  const order = Array.from({ length: count }, (_, i) => i);
  if (!shuffle) return order;
  return shuffled(order, mix(mix(seed >>> 0, Math.floor(seed / 2 ** 32)), epoch + 1));
}

/** murmur3's finaliser over the sum: nearby seeds and epochs give unrelated streams. */
function mix(a: number, b: number): number {
  let h = (a + Math.imul(b, 0x9e3779b9)) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
