// The optimiser loop that preference training and SFT share: plan, micro-batches, apply, metrics, summary. What a
// micro-batch is, its caller says.

import { StepwardError } from '../errors.js';
import type { EngineLike, TrainerLike } from '../native/types.js';
import { type LargestBatch, planMemory } from './memory.js';
import { type ResolvedOptimizer, trainerOptions } from './options.js';
import { peakMemory } from './peak-memory.js';
import type { PlannedStep, StepPlan } from './steps.js';
import type { StepMetrics, TrainingFailure, TrainingHooks, TrainingRecord, TrainingSummary } from './types.js';

export interface StepOutcome {
  loss: number;
  tokens: number;
  computedTokens: number;
  metrics: StepMetrics;
}

type Counts = Pick<TrainingSummary, 'pairs' | 'examples'>;
type Prepared = Partial<Pick<TrainingSummary, 'referenceTokens' | 'cachedReferenceTokens' | 'packingCheck'>>;

/** What the trainer was given, to be looked at. */
export type BatchAtHand = Pick<TrainingFailure, 'step' | 'microBatch' | 'records' | 'values'>;

export interface TrainingJob {
  /** The largest micro-batch under a budget, and the budget that was chosen. */
  largestBatch: LargestBatch;
  useBudget(tokens: number): void;
  /** Computed once, before the first step. */
  prepare?(trainer: TrainerLike): Promise<Prepared>;
  /** Accumulates the gradients of one optimiser step. */
  accumulate(trainer: TrainerLike, step: PlannedStep): Promise<StepOutcome>;
  /** The micro-batch that was last given to the trainer, in `prepare` too; `whole`: all of its step's. Undefined before the first. */
  batchAtHand(whole: boolean): BatchAtHand | undefined;
}

export async function runTraining(
  engine: EngineLike,
  plan: StepPlan,
  job: TrainingJob,
  options: ResolvedOptimizer,
  counts: Counts,
  hooks: TrainingHooks,
): Promise<TrainingSummary> {
  const start = performance.now();
  const summary: TrainingSummary = {
    steps: 0,
    ...counts,
    tokens: 0,
    computedTokens: 0,
    referenceTokens: 0,
    cachedReferenceTokens: 0,
    seconds: 0,
    finalLoss: Number.NaN,
  };
  hooks.onPlan?.(plan.total);
  const trainer = await engine.createTrainer(trainerOptions(options));
  let accumulated = false;
  try {
    const wishes = hooks.checkpoints?.sameBatches(options) ?? options;
    const memory = await planMemory(trainer, wishes, engine.info.device, job.largestBatch);
    hooks.checkpoints?.keepBatches(memory.microBatchTokens);
    job.useBudget(memory.microBatchTokens);
    // Loading may have taken more than training a small part of the model will.
    summary.estimatedBytes = Math.max(memory.estimatedBytes, peakMemory() ?? 0);
    Object.assign(summary, await job.prepare?.(trainer));
    await hooks.checkpoints?.restore(trainer, summary);
    for (const step of plan.steps()) {
      if (step.index < summary.steps) continue;
      throwIfAborted(hooks.signal);
      const stepStart = performance.now();
      accumulated = false;
      const outcome = await job.accumulate(trainer, step);
      if (!Number.isFinite(outcome.loss)) {
        await trainer.zeroGrad();
        throw new StepwardError('NUMERICAL', `expected a finite loss, got ${outcome.loss}`);
      }
      // From here on a number that is not finite is one of the gradients, and any micro-batch may have made it.
      accumulated = true;
      const gradNorm = await trainer.apply(step.learningRate);
      const seconds = (performance.now() - stepStart) / 1000;
      summary.steps++;
      summary.tokens += outcome.tokens;
      summary.computedTokens += outcome.computedTokens;
      summary.finalLoss = outcome.loss;
      hooks.onStep?.({
        step: step.index + 1,
        epoch: step.epoch,
        loss: outcome.loss,
        learning_rate: step.learningRate,
        grad_norm: gradNorm,
        num_tokens: summary.tokens,
        ...outcome.metrics,
        ...speeds(counts, step.items.length, outcome.computedTokens, seconds),
      });
      await hooks.checkpoints?.stepped(trainer, summary);
    }
    if (trainsAdapter(options)) {
      if (hooks.adapterDirectory !== undefined)
        await trainer.saveAdapter(hooks.adapterDirectory, hooks.baseModel ?? '');
      await trainer.mergeAdapter();
    }
  } catch (error) {
    if (hooks.signal?.aborted) await hooks.checkpoints?.interrupted(trainer, summary);
    const batch = job.batchAtHand(accumulated);
    if (!batch || !(error instanceof StepwardError) || error.code !== 'NUMERICAL') throw error;
    throw await reported({ ...batch, error }, trainer, options, hooks);
  } finally {
    await trainer.dispose();
  }
  summary.seconds = (performance.now() - start) / 1000;
  return summary;
}

function trainsAdapter({ lora, adapter }: ResolvedOptimizer): boolean {
  return lora !== undefined || adapter !== undefined;
}

/** Only these differ between two runs of one training. */
function speeds(counts: Counts, items: number, computedTokens: number, seconds: number): StepMetrics {
  const peak = peakMemory();
  return {
    [counts.pairs === undefined ? 'examples_per_second' : 'pairs_per_second']: items / seconds,
    tokens_per_second: computedTokens / seconds,
    ...(peak !== undefined && { peak_bytes: peak }),
  };
}

/**
 * What to throw. The gradients of a failed step are dropped, so the weights are those of the step before: the failure is
 * handed out with them while the trainer still has its adapters.
 */
async function reported(
  failure: TrainingFailure,
  trainer: TrainerLike,
  options: ResolvedOptimizer,
  hooks: TrainingHooks,
): Promise<StepwardError> {
  const { step, microBatch, error } = failure;
  const takeAdapter = async (directory: string): Promise<void> => {
    await trainer.saveAdapter(directory, hooks.baseModel ?? '');
    await trainer.mergeAdapter();
  };
  const kept = await hooks
    .onFailure?.({ ...failure, ...(trainsAdapter(options) && { takeAdapter }) })
    .catch((cause: unknown) => `nothing of it could be saved: ${(cause as Error).message}`);
  const place = microBatch === undefined ? `step ${step}` : `step ${step}, micro-batch ${microBatch}`;
  const after = kept === undefined ? '' : `; ${kept}`;
  return new StepwardError('NUMERICAL', `${place}: ${error.message}${after}`, { cause: error });
}

export function trainingRecord(summary: TrainingSummary): TrainingRecord {
  const { steps, pairs, examples, tokens, computedTokens, referenceTokens, seconds, finalLoss } = summary;
  const { cachedReferenceTokens, packingCheck } = summary;
  return {
    steps,
    ...(pairs === undefined ? { examples } : { pairs }),
    tokens,
    computed_tokens: computedTokens,
    ...(pairs === undefined ? {} : { reference_tokens: referenceTokens }),
    ...(cachedReferenceTokens > 0 && { cached_reference_tokens: cachedReferenceTokens }),
    ...(packingCheck !== undefined && { packing_check: packingCheck }),
    final_loss: finalLoss,
    seconds,
  };
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new StepwardError('CANCELLED', 'interrupted', { cause: signal.reason });
}
