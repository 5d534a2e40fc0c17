// Preference trees as a flat list of pairs, and pairs as packed forests again: packing/ finds what the pairs of a step share.

import type { Completions } from '../native/types.js';
import { type MicroBatch, packStep } from './packing/batches.js';
import { compareIds, sharedPrefix } from './packing/canonical.js';
import type { TreeCost } from './packing/cost.js';
import { itemOfPair, type TrainingItem } from './packing/sequences.js';
import { itemsOf, type PlacedPath, packTrees } from './packing/trees.js';
import { epochOrder } from './shuffle.js';
import type { PreferenceTree } from './types.js';

export interface Pair {
  index: number;
  /** Pairs of one group start with the same prompt and stay together when the data is shuffled. */
  group: number;
  tree: PreferenceTree;
  /** Index in tree.steps. */
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

function startsWith(ids: number[], prefix: number[]): boolean {
  return sharedPrefix(ids, prefix) === prefix.length;
}

/** Which step of its trajectory a pair judges, from 1; undefined where the data does not say. */
export function stepNumber(pair: Pair): number | undefined {
  const { firstStep = 0 } = pair.tree;
  return firstStep === null ? undefined : firstStep + pair.step + 1;
}

/** For messages. */
export function nameOf({ index, tree, step }: Pair): string {
  return tree.id === undefined ? `pair ${index}` : `pair ${index} (step ${step} of ${tree.id})`;
}

/** Tokens before the pair's step. */
export function contextOf(pair: Pair): number[] {
  return pair.tree.promptIds.concat(...pair.tree.steps.slice(0, pair.step).map((step) => step.chosenIds));
}

/** Tokens that a trainer without prefix sharing runs for this pair: the context twice. */
export function unpackedTokens(pair: Pair): number {
  const context = pair.tree.steps.slice(0, pair.step).reduce((sum, step) => sum + step.chosenIds.length, 0);
  return 2 * (pair.tree.promptIds.length + context) + pair.chosen.length + pair.rejected.length;
}

export interface PackedPairs extends Completions {
  /** [P] completion of each pair. */
  chosen: Int32Array;
  rejected: Int32Array;
  weight: Float32Array;
}

/** A micro-batch: its pairs, and what the trainer takes. */
export interface PairBatch {
  members: Pair[];
  packed: PackedPairs;
  /** Whether a token of the forest belongs to more than one path. */
  shares: boolean;
}

/** Micro-batches of an optimiser step's pairs. `cost`: decides what is shared; undefined: nothing is. */
export function packPairs(pairs: readonly Pair[], budget: number, cost: TreeCost | undefined): PairBatch[] {
  const items = pairs.map((pair) => itemOfPair(contextOf(pair), pair.chosen, pair.rejected));
  return packStep(items, budget, cost).map((batch) => packBatch(pairs, items, batch));
}

/**
 * One forest. Equal completions after the same context in a tree are one completion. Completions are numbered as they end in
 * the forest, so that their order too is the paths' alone.
 */
function packBatch(pairs: readonly Pair[], items: readonly TrainingItem[], batch: MicroBatch): PairBatch {
  const members = itemsOf(batch).map((i) => pairs[i] as Pair);
  const { forest, placed, shares } = packTrees(items, batch);
  const segmentCount = forest.parents.length;
  const endOf = ({ context, pieces }: PlacedPath): number =>
    (pieces[0]?.at(-1) as number) * (segmentCount + 1) + context + 1;
  const known = new Map(placed.flat().map((path) => [endOf(path), path.pieces[0] as number[]]));
  const ends = [...known.keys()].sort((a, b) => a - b);
  const numbers = new Map(ends.map((end, c) => [end, c]));
  const offsets = [0];
  const segments: number[] = [];
  for (const end of ends) {
    segments.push(...(known.get(end) as number[]));
    offsets.push(segments.length);
  }
  const side = (which: 0 | 1): Int32Array =>
    Int32Array.from(placed, (paths) => numbers.get(endOf(paths[which] as PlacedPath)) as number);
  return {
    members,
    shares,
    packed: {
      forest,
      completionOffsets: Int32Array.from(offsets),
      completionSegments: Int32Array.from(segments),
      chosen: side(0),
      rejected: side(1),
      weight: Float32Array.from(members, (pair) => pair.weight),
    },
  };
}
