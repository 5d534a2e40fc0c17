// Completions of a forest, and their log-probs with the adapters off: the one question that references and the check of a
// packing ask.

import type { ForestData, TrainerLike } from '../native/types.js';

/** Completion c is the segments completionSegments[completionOffsets[c]..completionOffsets[c + 1]). */
export interface Completions {
  forest: ForestData;
  /** [C + 1] */
  completionOffsets: Int32Array;
  completionSegments: Int32Array;
}

export function completionCount({ completionOffsets }: Completions): number {
  return completionOffsets.length - 1;
}

/** [C] natural log-probs, summed over the tokens of each completion. */
export function baseLogprobs(
  trainer: TrainerLike,
  { forest, completionOffsets, completionSegments }: Completions,
  signal: AbortSignal | undefined,
): Promise<ArrayLike<number>> {
  return trainer.referenceLogprobs({ forest, completionOffsets, completionSegments }, signal);
}
