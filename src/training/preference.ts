// Step-wise DPO over packed trees: pairs are shuffled and cut into optimiser steps, each step is packed into forests,
// and reference log-probs are computed once, on the packing of the first epoch, so that step 0 is exactly ln 2.

import { StepwardError } from '../errors.js';
import type { EngineLike, PreferenceBatch } from '../native/types.js';
import { usesReference } from './losses/pair-loss.js';
import { lossStep } from './losses/step.js';
import { PreferenceMeter } from './metrics.js';
import { type ResolvedPreference, resolvePreference } from './options.js';
import { flattenTrees, type PackedPairs, type Pair, packForest, packPairs, unpackedTokens } from './pairs.js';
import { runTraining, throwIfAborted } from './run.js';
import { type PlannedStep, planSteps } from './steps.js';
import type { PreferenceOptions, PreferenceTree, TrainingHooks, TrainingSummary } from './types.js';

export type { PreferenceOptions, PreferenceTree, TrainingHooks, TrainingSummary } from './types.js';

/**
 * Trains the engine's model in place; adapters are merged into it at the end. Throws INVALID_ARGUMENT, NUMERICAL,
 * CANCELLED and what the engine throws.
 */
export async function trainPreference(
  engine: EngineLike,
  trees: PreferenceTree[],
  given: PreferenceOptions = {},
  hooks: TrainingHooks = {},
): Promise<TrainingSummary> {
  const options = resolvePreference(given);
  const { pairs, orderOf } = flattenTrees(trees);
  if (pairs.length === 0)
    throw new StepwardError('INVALID_ARGUMENT', 'preference training: expected at least one pair, got none');
  const plan = planSteps(pairs.length, (epoch) => orderOf(epoch, options.seed, options.shuffle), options);
  const pairsOf = (step: PlannedStep): Pair[] => step.items.map((i) => pairs[i] as Pair);
  const withReference = usesReference(options.loss);
  if (!withReference && hooks.reference) {
    throw new StepwardError(
      'INVALID_ARGUMENT',
      'reference: expected none beside a loss that has no reference, got one',
    );
  }
  const reference = new ReferenceTable(pairs.length, withReference);
  const loss = lossStep(options.loss);

  return runTraining(
    engine,
    plan,
    {
      async prepare(trainer) {
        if (!withReference) return 0;
        let computed = 0;
        const total = Math.min(plan.total, plan.perEpoch);
        // Another model too goes through a trainer: by the same routine and packing equal weights give equal log-probs.
        const other = hooks.reference === engine ? undefined : hooks.reference;
        const referee = other ? await other.createTrainer({ optimizer: 'sgd' }) : trainer;
        try {
          for (const step of plan.steps()) {
            if (step.index >= total) break;
            for (const batch of packPairs(pairsOf(step), options.microBatchTokens)) {
              throwIfAborted(hooks.signal);
              const packed = packForest(batch);
              reference.store(batch, packed, await referee.referenceLogprobs(packed, hooks.signal));
              computed += packed.forest.tokens.length;
            }
            hooks.onReference?.(step.index + 1, total);
          }
        } finally {
          if (other) await referee.dispose();
        }
        return computed;
      },
      async accumulate(trainer, step) {
        const members = pairsOf(step);
        const meter = new PreferenceMeter(options.beta, options.loss === 'simpo');
        const tokenNorm = members.reduce((sum, pair) => sum + pair.chosen.length, 0);
        let computedTokens = 0;
        for (const batch of packPairs(members, options.microBatchTokens)) {
          const packed = packForest(batch);
          const result = await loss.accumulate(
            trainer,
            lossBatch(batch, packed, reference.read(batch, packed), options, members.length, tokenNorm),
            batch,
            hooks.signal,
          );
          meter.addLoss(result.loss);
          computedTokens += result.computedTokens;
          for (const [p, pair] of batch.entries()) {
            meter.addPair(
              {
                logprob: result.completionLogprobs[packed.chosen[p] as number] as number,
                reference: reference.chosen(pair),
                tokens: pair.chosen.length,
              },
              {
                logprob: result.completionLogprobs[packed.rejected[p] as number] as number,
                reference: reference.rejected(pair),
                tokens: pair.rejected.length,
              },
            );
          }
        }
        const tokens = members.reduce((sum, pair) => sum + unpackedTokens(pair), 0);
        return { loss: meter.loss, tokens, computedTokens, metrics: meter.metrics() };
      },
    },
    options,
    { pairs: pairs.length },
    hooks,
  );
}

function lossBatch(
  batch: Pair[],
  packed: PackedPairs,
  reference: Float64Array,
  options: ResolvedPreference,
  pairNorm: number,
  tokenNorm: number,
): Omit<PreferenceBatch, 'loss'> {
  const { beta, labelSmoothing, gamma, sftWeight } = options;
  const mix = Float32Array.from(batch, (pair) => pair.mix ?? options.mix);
  const mixed = mix.some((share) => share !== 1);
  return {
    ...packed,
    reference,
    ...(mixed && { mix }),
    beta,
    labelSmoothing,
    gamma,
    sftWeight,
    pairNorm,
    tokenNorm,
  };
}

/** Reference log-probs by pair: later epochs pack the pairs differently. All 0 for a loss without a reference. */
class ReferenceTable {
  readonly #chosen: Float64Array;
  readonly #rejected: Float64Array;

  constructor(pairs: number, used: boolean) {
    this.#chosen = new Float64Array(pairs).fill(used ? Number.NaN : 0);
    this.#rejected = this.#chosen.slice();
  }

  store(batch: Pair[], packed: PackedPairs, logprobs: Float64Array): void {
    for (const [p, pair] of batch.entries()) {
      this.#chosen[pair.index] = logprobs[packed.chosen[p] as number] as number;
      this.#rejected[pair.index] = logprobs[packed.rejected[p] as number] as number;
    }
  }

  chosen(pair: Pair): number {
    return this.#chosen[pair.index] as number;
  }

  rejected(pair: Pair): number {
    return this.#rejected[pair.index] as number;
  }

  /** [C] for a packed batch. */
  read(batch: Pair[], packed: PackedPairs): Float64Array {
    const values = new Float64Array(packed.completionOffsets.length - 1);
    for (const [p, pair] of batch.entries()) {
      values[packed.chosen[p] as number] = this.chosen(pair);
      values[packed.rejected[p] as number] = this.rejected(pair);
    }
    return values;
  }
}
