// Step-wise DPO over packed trees: pairs are shuffled and cut into optimiser steps, each step is packed into forests, and
// reference log-probs come from the packing of the first epoch, so that step 0 is exactly ln 2.

import { StepwardError } from '../errors.js';
import type { EngineLike, PreferenceBatch, TrainerLike } from '../native/types.js';
import { pairRecord } from './failure.js';
import { usesReference } from './losses/pair-loss.js';
import { lossStep } from './losses/step.js';
import { largestBatchOf, type PackedSize, sizeOfForest } from './memory.js';
import { PreferenceMeter } from './metrics.js';
import { type ResolvedPreference, resolvePreference } from './options.js';
import { sharingCost } from './packing/cost.js';
import { type CheckedPath, checkPacking, chooseChecked, firstShared } from './packing/self-check.js';
import {
  contextOf,
  flattenTrees,
  nameOf,
  type Pair,
  type PairBatch,
  packPairs,
  stepNumber,
  unpackedTokens,
} from './pairs.js';
import { ReferenceModel, ReferenceTable } from './reference.js';
import { type BatchAtHand, runTraining, throwIfAborted } from './run.js';
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
  const cost = sharingCost(options.sharing, engine.info);
  let budget = 1;
  const batchesOf = (step: PlannedStep): PairBatch[] => packPairs(pairsOf(step), budget, cost);
  const reference = new ReferenceTable(pairs.length, withReference);
  const loss = lossStep(options.loss);
  let atHand: { step: PlannedStep; index: number; batches: PairBatch[] } | undefined;

  return runTraining(
    engine,
    plan,
    {
      largestBatch: largestBatchOf(
        plan,
        (step) => pairsOf(step).map(unpackedTokens),
        (step, tokens) => packPairs(pairsOf(step), tokens, cost).map(sizeOf),
      ),
      useBudget(tokens) {
        budget = tokens;
      },
      async prepare(trainer) {
        if (!withReference) {
          atHand = firstShared(plan, batchesOf);
          const batch = atHand?.batches[atHand.index];
          return batch ? { packingCheck: await checkBatch(engine, trainer, batch, undefined, hooks.signal) } : {};
        }
        const total = Math.min(plan.total, plan.perEpoch);
        const other = hooks.reference === engine ? undefined : hooks.reference;
        const model = await ReferenceModel.open(engine, trainer, other, hooks.referenceCache, options.adapter);
        let packingCheck: number | undefined;
        try {
          for (const step of plan.steps()) {
            if (step.index >= total) break;
            const batches = batchesOf(step);
            for (const [index, batch] of batches.entries()) {
              throwIfAborted(hooks.signal);
              atHand = { step, index, batches };
              const before = model.computedTokens;
              const logprobs = await model.logprobs(batch, hooks.signal);
              reference.store(batch, logprobs);
              if (batch.shares && packingCheck === undefined) {
                // What another model gave, or another run, says nothing of this trainer.
                const own = !other && model.computedTokens > before ? logprobs : undefined;
                packingCheck = await checkBatch(engine, trainer, batch, own, hooks.signal);
              }
            }
            hooks.onReference?.(step.index + 1, total);
          }
        } finally {
          await model.dispose();
        }
        const { computedTokens: referenceTokens, cachedTokens: cachedReferenceTokens } = model;
        return { referenceTokens, cachedReferenceTokens, ...(packingCheck !== undefined && { packingCheck }) };
      },
      async accumulate(trainer, step) {
        const members = pairsOf(step);
        const meter = new PreferenceMeter(options.beta, options.loss === 'simpo');
        const tokenNorm = members.reduce((sum, pair) => sum + pair.chosen.length, 0);
        let computedTokens = 0;
        const batches = batchesOf(step);
        for (const [index, batch] of batches.entries()) {
          atHand = { step, index, batches };
          const result = await loss.accumulate(
            trainer,
            lossBatch(batch, reference.read(batch), options, members.length, tokenNorm),
            batch.members,
            hooks.signal,
          );
          const { completionLogprobs, statistics } = result;
          meter.addLoss(result.loss);
          if (statistics) meter.addStatistics(statistics);
          computedTokens += result.computedTokens;
          const side = (completion: number | undefined): number => completionLogprobs[completion as number] as number;
          for (const [p, pair] of batch.members.entries()) {
            meter.addPair(
              {
                logprob: side(batch.packed.chosen[p]),
                reference: reference.chosen(pair),
                tokens: pair.chosen.length,
              },
              {
                logprob: side(batch.packed.rejected[p]),
                reference: reference.rejected(pair),
                tokens: pair.rejected.length,
              },
              stepNumber(pair),
            );
          }
          // The step has failed; atHand stays at the batch that did it.
          if (!Number.isFinite(result.loss)) break;
        }
        const tokens = members.reduce((sum, pair) => sum + unpackedTokens(pair), 0);
        return { loss: meter.loss, tokens, computedTokens, metrics: meter.metrics(tokens / computedTokens) };
      },
      batchAtHand: (whole) =>
        atHand && {
          step: atHand.step.index + 1,
          ...inspected(atHand.batches, whole ? undefined : atHand.index, reference),
        },
    },
    options,
    { pairs: pairs.length },
    hooks,
  );
}

function lossBatch(
  { members, packed }: PairBatch,
  reference: Float64Array,
  options: ResolvedPreference,
  pairNorm: number,
  tokenNorm: number,
): Omit<PreferenceBatch, 'loss'> {
  const { beta, labelSmoothing, gamma, sftWeight } = options;
  const mix = Float32Array.from(members, (pair) => pair.mix ?? options.mix);
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

function sizeOf({ packed: { forest, completionSegments } }: PairBatch): PackedSize {
  const { offsets } = forest;
  const scored = [...new Set(completionSegments)];
  const length = (segment: number): number => (offsets[segment + 1] as number) - (offsets[segment] as number);
  return { ...sizeOfForest(forest), scoredTokens: scored.reduce((sum, segment) => sum + length(segment), 0) };
}

/** `logprobs`: [C] that this trainer gave for the batch; undefined: they are computed. */
async function checkBatch(
  engine: EngineLike,
  trainer: TrainerLike,
  { members, packed }: PairBatch,
  logprobs: ArrayLike<number> | undefined,
  signal: AbortSignal | undefined,
): Promise<number> {
  const values = logprobs ?? (await trainer.referenceLogprobs(packed, signal));
  const { chosen, rejected, completionOffsets: offsets } = packed;
  const cuts = (completion: number): number => (offsets[completion + 1] as number) - (offsets[completion] as number);
  const checked = chooseChecked(
    members.map((pair) => contextOf(pair).length + Math.max(pair.chosen.length, pair.rejected.length)),
    members.map((_, p) => Math.max(cuts(chosen[p] as number), cuts(rejected[p] as number))),
  );
  const paths = checked.flatMap((p): CheckedPath[] => {
    const pair = members[p] as Pair;
    const side = (name: string, ids: number[], completion: number): CheckedPath => ({
      name: `${name} of ${nameOf(pair)}`,
      path: { context: contextOf(pair), pieces: [{ ids, weight: 1 }] },
      packed: values[completion] as number,
    });
    return [side('chosen', pair.chosen, chosen[p] as number), side('rejected', pair.rejected, rejected[p] as number)];
  });
  return checkPacking(trainer, engine.info.dtype, paths, signal);
}

/** For a micro-batch that failed; `index` undefined: all of them. */
function inspected(
  batches: PairBatch[],
  index: number | undefined,
  reference: ReferenceTable,
): Omit<BatchAtHand, 'step'> {
  const members = batches.flatMap((batch, b) => (index === undefined || index === b ? batch.members : []));
  return {
    ...(index !== undefined && { microBatch: index + 1 }),
    records: members.map(pairRecord),
    values: members.map((pair) => ({
      pair: pair.index,
      reference_chosen: reference.chosen(pair),
      reference_rejected: reference.rejected(pair),
    })),
  };
}
