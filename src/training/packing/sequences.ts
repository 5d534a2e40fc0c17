// The one form that every kind of record is packed in: paths of tokens, of which some pieces are scored. What the paths
// share is found later, token by token; nothing here depends on how a record was written.

import type { SftExample } from '../types.js';

export interface Piece {
  ids: readonly number[];
  /** How often a token counts in an SFT loss; 0: context. Pairs have weights of their own and do not read it. */
  weight: number;
}

export interface TrainingPath {
  /** Tokens before the first piece; may be empty. Paths with equal contexts belong to one step. */
  context: readonly number[];
  /** At least one, none of them empty. */
  pieces: readonly Piece[];
}

/** What must meet in one micro-batch: the two sides of a pair, or one example. */
export interface TrainingItem {
  paths: readonly TrainingPath[];
}

/** The two completions of a pair after their common context: chosen, then rejected. */
export function itemOfPair(
  context: readonly number[],
  chosen: readonly number[],
  rejected: readonly number[],
): TrainingItem {
  return { paths: [chosen, rejected].map((ids) => ({ context, pieces: [{ ids, weight: 1 }] })) };
}

/** An example: what stands before its first scored segment is context, the rest are pieces. Empty segments are left out. */
export function itemOfExample(example: SftExample): TrainingItem {
  const segments = example.segments.filter(({ ids }) => ids.length > 0);
  const first = segments.findIndex(({ weight }) => weight !== 0);
  const scored = first < 0 ? segments.length - 1 : first;
  const context = segments.slice(0, scored).flatMap(({ ids }) => ids);
  return { paths: [{ context, pieces: segments.slice(scored) }] };
}

/** All tokens of a path, from its root to its end. */
export function idsOf(path: TrainingPath): number[] {
  return path.context.concat(...path.pieces.map(({ ids }) => ids));
}

export function lengthOf(path: TrainingPath): number {
  return path.pieces.reduce((sum, { ids }) => sum + ids.length, path.context.length);
}
