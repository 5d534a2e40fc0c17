// Preference trees as a flat list of pairs, and pairs as packed forests again. A forest holds every shared prefix once:
// of one trajectory's steps, of the candidates of a step, and of records whose prompts continue each other.

import { type RadixEnd, RadixForest } from '../data/forest.js';
import type { ForestData } from '../native/types.js';
import { epochOrder } from './shuffle.js';
import type { PreferenceTree } from './types.js';

export interface Pair {
  index: number;
  /** Pairs of one group start with the same prompt and share a tree where they meet in a micro-batch. */
  group: number;
  tree: PreferenceTree;
  step: number;
  chosen: number[];
  rejected: number[];
  weight: number;
  /** Undefined: the training's own. */
  mix: number | undefined;
}

export interface PairSet {
  pairs: Pair[];
  /** Order of the pairs in an epoch: groups are shuffled, the pairs of one stay together. */
  orderOf(epoch: number, seed: number, shuffle: boolean): number[];
}

/** Every (chosen, rejected) of every step. */
export function flattenTrees(trees: PreferenceTree[]): PairSet {
  const groups = groupByPrompt(trees);
  const pairs: Pair[] = [];
  for (const [t, tree] of trees.entries()) {
    for (const [step, { chosenIds, rejected }] of tree.steps.entries()) {
      for (const { ids, weight, mix } of rejected) {
        const [index, group] = [pairs.length, groups[t] as number];
        pairs.push({ index, group, tree, step, chosen: chosenIds, rejected: ids, weight: weight ?? 1, mix });
      }
    }
  }
  const members = byGroup(pairs);
  return {
    pairs,
    orderOf(epoch, seed, shuffle) {
      if (!shuffle) return pairs.map((pair) => pair.index);
      return epochOrder(members.length, seed, epoch, true).flatMap((g) =>
        (members[g] as Pair[]).map((pair) => pair.index),
      );
    },
  };
}

/** Trees whose prompt begins with another tree's whole prompt join its group: flat pair files become trees again. */
function groupByPrompt(trees: PreferenceTree[]): number[] {
  const order = trees.map((_, i) => i).sort((a, b) => compareIds(prompt(a), prompt(b)) || a - b);
  const groups = new Array<number>(trees.length);
  let root = -1;
  for (const i of order) {
    if (root < 0 || !startsWith(prompt(i), prompt(root))) root = i;
    groups[i] = root;
  }
  return groups;

  function prompt(i: number): number[] {
    return (trees[i] as PreferenceTree).promptIds;
  }
}

/** Pairs by group, groups in order of appearance. */
function byGroup(pairs: Pair[]): Pair[][] {
  const groups = new Map<number, Pair[]>();
  for (const pair of pairs) {
    const members = groups.get(pair.group);
    if (members) members.push(pair);
    else groups.set(pair.group, [pair]);
  }
  return [...groups.values()];
}

function compareIds(a: number[], b: number[]): number {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) if (a[i] !== b[i]) return (a[i] as number) - (b[i] as number);
  return a.length - b.length;
}

function startsWith(ids: number[], prefix: number[]): boolean {
  return ids.length >= prefix.length && prefix.every((id, i) => id === ids[i]);
}

function contextOf(pair: Pair): number[] {
  return pair.tree.promptIds.concat(...pair.tree.steps.slice(0, pair.step).map((step) => step.chosenIds));
}

/** Tokens that a trainer without prefix sharing runs for this pair: the context twice. */
export function unpackedTokens(pair: Pair): number {
  const context = pair.tree.steps.slice(0, pair.step).reduce((sum, step) => sum + step.chosenIds.length, 0);
  return 2 * (pair.tree.promptIds.length + context) + pair.chosen.length + pair.rejected.length;
}

interface PairEnds {
  context: RadixEnd;
  chosen: RadixEnd;
  rejected: RadixEnd;
}

function insertPair(radix: RadixForest, pair: Pair): PairEnds {
  const context = radix.insert(contextOf(pair), pair.group);
  return {
    context,
    chosen: radix.insert(pair.chosen, pair.group, context),
    rejected: radix.insert(pair.rejected, pair.group, context),
  };
}

/** Cuts a step's pairs into micro-batches of at most `budget` packed tokens where single pairs allow. */
export function packPairs(pairs: Pair[], budget: number): Pair[][] {
  const batches: Pair[][] = [];
  let open: Pair[] = [];
  let openTokens = 0;
  const flush = (): void => {
    if (open.length > 0) batches.push(open);
    open = [];
    openTokens = 0;
  };
  for (const group of byGroup(pairs)) {
    let radix = new RadixForest();
    let piece: Pair[] = [];
    for (const pair of group) {
      insertPair(radix, pair);
      if (piece.length > 0 && radix.tokens > budget) {
        flush();
        batches.push(piece);
        piece = [];
        radix = new RadixForest();
        insertPair(radix, pair);
      }
      piece.push(pair);
    }
    if (openTokens + radix.tokens > budget) flush();
    open.push(...piece);
    openTokens += radix.tokens;
  }
  flush();
  return batches;
}

export interface PackedPairs {
  forest: ForestData;
  completionOffsets: Int32Array;
  completionSegments: Int32Array;
  /** [P] completion of each pair. */
  chosen: Int32Array;
  rejected: Int32Array;
  weight: Float32Array;
}

/** One forest for these pairs. Equal completions after the same context are one completion. */
export function packForest(pairs: Pair[]): PackedPairs {
  const radix = new RadixForest();
  const ends = pairs.map((pair) => insertPair(radix, pair));
  const { forest, indexOf } = radix.build();
  const known = new Map<RadixEnd, Map<RadixEnd, number>>();
  const offsets = [0];
  const segments: number[] = [];
  const completion = (context: RadixEnd, end: RadixEnd): number => {
    const after = known.get(context) ?? new Map<RadixEnd, number>();
    known.set(context, after);
    let id = after.get(end);
    if (id === undefined) {
      id = offsets.length - 1;
      after.set(end, id);
      for (const node of RadixForest.path(end, context)) segments.push(indexOf.get(node) as number);
      offsets.push(segments.length);
    }
    return id;
  };
  return {
    forest,
    chosen: Int32Array.from(ends, (end) => completion(end.context, end.chosen)),
    rejected: Int32Array.from(ends, (end) => completion(end.context, end.rejected)),
    completionOffsets: Int32Array.from(offsets),
    completionSegments: Int32Array.from(segments),
    weight: Float32Array.from(pairs, (pair) => pair.weight),
  };
}
