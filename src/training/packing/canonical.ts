// An order of items that their tokens alone decide. Paths inserted into a trie in this order make a forest that is a
// function of the set of paths: swapping the sides of a pair, or the lines of a file, changes no bit of its log-probs.

import { idsOf, type TrainingItem } from './sequences.js';

/** By token ids, a prefix before what it begins. */
export function compareIds(a: readonly number[], b: readonly number[]): number {
  const shared = sharedPrefix(a, b);
  if (shared < a.length && shared < b.length) return (a[shared] as number) - (b[shared] as number);
  return a.length - b.length;
}

/** Tokens that two sequences begin with in common. */
export function sharedPrefix(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length);
  let shared = 0;
  while (shared < most && a[shared] === b[shared]) shared++;
  return shared;
}

/**
 * Indices of `items`: by their contexts, and those with equal contexts by all their paths, whichever comes first in an
 * item. So the steps of a trajectory come in their order, and prompts that begin alike stand beside each other.
 */
export function canonicalOrder(items: readonly TrainingItem[]): number[] {
  const keys = items.map(({ paths }) => paths.map((path) => idsOf(path)).sort(compareIds));
  const contexts = items.map(({ paths }) => paths.map(({ context }) => context).sort(compareIds)[0] ?? []);
  return items
    .map((_, i) => i)
    .sort((a, b) => {
      const byContext = compareIds(contexts[a] as number[], contexts[b] as number[]);
      if (byContext !== 0) return byContext;
      const [one, other] = [keys[a] as number[][], keys[b] as number[][]];
      for (let k = 0; k < Math.min(one.length, other.length); k++) {
        const byPath = compareIds(one[k] as number[], other[k] as number[]);
        if (byPath !== 0) return byPath;
      }
      return a - b;
    });
}
