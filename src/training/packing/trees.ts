// A micro-batch as one forest, and where each path's pieces lie in it.

import { type RadixEnd, RadixForest } from '../../data/forest.js';
import type { ForestData } from '../../native/types.js';
import type { MicroBatch } from './batches.js';
import { compareIds } from './canonical.js';
import { idsOf, type TrainingItem, type TrainingPath } from './sequences.js';

/** Of one path: segments of the forest, outermost first. */
export interface PlacedPath {
  /** Segment that the context ends with; -1 where it is empty. */
  context: number;
  /** Per piece. */
  pieces: number[][];
}

export interface PackedTrees {
  forest: ForestData;
  /** [item][path], in the order of the micro-batch's items: see itemsOf. */
  placed: PlacedPath[][];
  /** Whether a token of the forest belongs to more than one path. */
  shares: boolean;
}

/** Indices of a micro-batch's items, run by run. */
export function itemsOf(batch: MicroBatch): number[] {
  return batch.runs.flatMap((run) => run.items);
}

/**
 * `items`: those of the optimiser step. A segment ends where paths part, where a context ends and where a piece ends, so the
 * forest is a function of the paths in each run.
 */
export function packTrees(items: readonly TrainingItem[], batch: MicroBatch): PackedTrees {
  const radix = new RadixForest();
  const entries = batch.runs.flatMap((run, r) =>
    run.items.flatMap((item) =>
      (items[item] as TrainingItem).paths.map((path, p) => ({ item, p, path, ids: idsOf(path), run, r })),
    ),
  );
  const ends = new Map<number, PathEnds[]>();
  const sorted = [...entries].sort((a, b) => a.r - b.r || compareIds(a.ids, b.ids));
  for (const [position, { item, p, path, run, r }] of sorted.entries()) {
    const own = ends.get(item) ?? [];
    ends.set(item, own);
    // A chain of its own has a key of its own: its place, which its tokens alone decide.
    own[p] = insertPath(radix, path, run.shared ? r : `${r}.${position}`);
  }
  const { forest, indexOf } = radix.build({ trunkFirst: true });
  const tokens = entries.reduce((sum, { ids }) => sum + ids.length, 0);
  return {
    forest,
    placed: itemsOf(batch).map((item) => (ends.get(item) as PathEnds[]).map((path) => place(path, indexOf))),
    shares: forest.tokens.length < tokens,
  };
}

interface PathEnds {
  context: RadixEnd | undefined;
  pieces: RadixEnd[];
}

function insertPath(radix: RadixForest, path: TrainingPath, tree: number | string): PathEnds {
  const context = path.context.length > 0 ? radix.insert(path.context, tree) : undefined;
  const pieces: RadixEnd[] = [];
  for (const { ids } of path.pieces) pieces.push(radix.insert(ids, tree, pieces.at(-1) ?? context));
  return { context, pieces };
}

function place({ context, pieces }: PathEnds, indexOf: Map<RadixEnd, number>): PlacedPath {
  const index = (node: RadixEnd): number => indexOf.get(node) as number;
  return {
    context: context ? index(context) : -1,
    pieces: pieces.map((end, i) => RadixForest.path(end, pieces[i - 1] ?? context).map(index)),
  };
}
