// A training checks its own packing: on the first micro-batch that shares anything, some completions are computed once more,
// each on a chain of its own. Wrong attention between branches, wrong positions or a wrong cut show here, not as a model
// that learns badly.

import { StepwardError } from '../../errors.js';
import type { Completions, TrainerLike } from '../../native/types.js';
import type { PlannedStep, StepPlan } from '../steps.js';
import type { TrainingPath } from './sequences.js';
import { type PlacedPath, packTrees } from './trees.js';

/** A completion: the scored pieces of a path. */
export interface CheckedPath {
  /** Of the record, for the message. */
  name: string;
  path: TrainingPath;
  /** Its log-prob in the packed micro-batch, nats. */
  packed: number;
}

/**
 * Largest difference between packed and unpacked log-probs, in nats. Throws NUMERICAL where one is more than rounding: 2e-5 a
 * token and 1e-4 for float32, 2e-2 a token for bfloat16, whose products keep 8 bits. So it does where the packed one is no
 * finite number: that is the model's doing, not the packing's, and is told apart.
 */
export async function checkPacking(
  trainer: TrainerLike,
  dtype: string,
  paths: readonly CheckedPath[],
  signal: AbortSignal | undefined,
): Promise<number> {
  const items = paths.map(({ path }) => ({ paths: [path] }));
  const runs = items.map((_, i) => ({ items: [i], shared: false, tokens: 0 }));
  const { forest, placed } = packTrees(items, { runs, tokens: 0 });
  const scored = placed.map(([path], i) => scoredSegments(path as PlacedPath, (paths[i] as CheckedPath).path));
  const alone = await trainer.referenceLogprobs({ forest, ...completionsOf(scored) }, signal);
  let worst = 0;
  for (const [i, { name, path, packed }] of paths.entries()) {
    const own = alone[i] as number;
    const tokens = path.pieces.reduce((sum, { ids, weight }) => sum + (weight === 0 ? 0 : ids.length), 0);
    const allowed = dtype === 'float32' ? 2e-5 * tokens + 1e-4 : 2e-2 * tokens;
    const difference = Math.abs(own - packed);
    if (!Number.isFinite(packed)) {
      throw new StepwardError('NUMERICAL', `log-prob of ${name}: expected a finite number, got ${packed}`);
    }
    // Also where the other one is NaN.
    if (!(difference <= allowed)) {
      throw new StepwardError(
        'NUMERICAL',
        `packed and unpacked log-probs differ: ${name}: ${packed.toFixed(4)} against ${own.toFixed(4)}, ` +
          `expected at most ${allowed.toPrecision(2)} apart over ${tokens} tokens`,
      );
    }
    worst = Math.max(worst, difference);
  }
  return worst;
}

/** Where the first micro-batch of the first epoch is that shares anything. */
export function firstShared<B extends { shares: boolean }>(
  plan: StepPlan,
  batchesOf: (step: PlannedStep) => B[],
): { step: PlannedStep; index: number; batches: B[] } | undefined {
  for (const step of plan.steps()) {
    if (step.index >= plan.perEpoch) break;
    const batches = batchesOf(step);
    const index = batches.findIndex(({ shares }) => shares);
    if (index >= 0) return { step, index, batches };
  }
  return undefined;
}

/** Segments of the pieces that carry loss, outermost first. */
export function scoredSegments(placed: PlacedPath, path: TrainingPath): number[] {
  return placed.pieces.flatMap((segments, i) => (path.pieces[i]?.weight === 0 ? [] : segments));
}

/** Completions from the segments of each. */
export function completionsOf(segments: readonly number[][]): Omit<Completions, 'forest'> {
  const offsets = [0];
  for (const own of segments) offsets.push((offsets.at(-1) as number) + own.length);
  return { completionOffsets: Int32Array.from(offsets), completionSegments: Int32Array.from(segments.flat()) };
}

/**
 * Indices to check, three at most: the first, the one with the longest path, and one whose completion is cut into several
 * segments. `lengths`: tokens of each path; `cuts`: segments of its completion.
 */
export function chooseChecked(lengths: readonly number[], cuts: readonly number[]): number[] {
  const longest = lengths.indexOf(Math.max(...lengths));
  const cut = cuts.findIndex((count) => count > 1);
  return [...new Set([0, longest, cut])].filter((i) => i >= 0 && i < lengths.length);
}
