// The form of a loss written in TypeScript: vectors over pairs in, loss and gradients out. The core has the log-probs and
// carries the gradients back through the forest; weights, mixes, norms and the NLL term are applied outside the loss.

import type { PreferenceLossKind } from '../../native/types.js';

/** One entry per pair of a micro-batch, P in all. Log-probs are natural, summed over the step's tokens. */
export interface PairVectors {
  /** [P] log-prob of the chosen step under the policy. */
  chosen: Float64Array;
  /** [P] log-prob of the rejected step under the policy. */
  rejected: Float64Array;
  /** [P] of the chosen step under the reference; zeros where the loss says `reference: false`. */
  referenceChosen: Float64Array;
  referenceRejected: Float64Array;
  /** [P] tokens, at least 1. */
  chosenLength: Int32Array;
  rejectedLength: Int32Array;
  /** [P] which step of its tree the pair judges, from 0. */
  step: Int32Array;
}

/** [P] each, before the pair's weight: the loss of pair p, and its derivatives in chosen[p] and rejected[p]. */
export interface PairGradients {
  loss: Float64Array;
  gradChosen: Float64Array;
  gradRejected: Float64Array;
}

/**
 * A loss over pairs. A pair's loss may depend on that pair alone: how pairs are packed into micro-batches must not change
 * the training. `pairwise` (dual.ts) makes one from a formula and takes its derivatives itself.
 */
export interface PairLoss {
  (pairs: PairVectors): PairGradients | Promise<PairGradients>;
  /** false: the loss has no reference, so reference log-probs are not computed. Default true. */
  readonly reference?: boolean;
}

/** Whether reference log-probs have to be computed for this loss. */
export function usesReference(loss: PreferenceLossKind | PairLoss): boolean {
  return typeof loss === 'function' ? (loss.reference ?? true) : loss !== 'simpo';
}

/** The pairs the other way round: what was rejected is chosen. */
export function swapSides(pairs: PairVectors): PairVectors {
  return {
    chosen: pairs.rejected,
    rejected: pairs.chosen,
    referenceChosen: pairs.referenceRejected,
    referenceRejected: pairs.referenceChosen,
    chosenLength: pairs.rejectedLength,
    rejectedLength: pairs.chosenLength,
    step: pairs.step,
  };
}
