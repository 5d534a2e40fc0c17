// The optimiser loop that preference training and SFT share: plan, micro-batches, apply, metrics, summary. What a
// micro-batch is, its caller says.

import { StepwardError } from '../errors.js';
import type { EngineLike, TrainerLike } from '../native/types.js';
import { type ResolvedOptimizer, trainerOptions } from './options.js';
import type { PlannedStep, StepPlan } from './steps.js';
import type { StepMetrics, TrainingHooks, TrainingRecord, TrainingSummary } from './types.js';

export interface StepOutcome {
  loss: number;
  tokens: number;
  computedTokens: number;
  metrics: StepMetrics;
}

type Counts = Pick<TrainingSummary, 'pairs' | 'examples'>;

export interface TrainingJob {
  /** Computed once, before the first step. Returns tokens computed. */
  prepare?(trainer: TrainerLike): Promise<number>;
  /** Accumulates the gradients of one optimiser step. */
  accumulate(trainer: TrainerLike, step: PlannedStep): Promise<StepOutcome>;
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
  const summary = {
    steps: 0,
    ...counts,
    tokens: 0,
    computedTokens: 0,
    referenceTokens: 0,
    seconds: 0,
    finalLoss: Number.NaN,
  };
  hooks.onPlan?.(plan.total);
  const trainer = await engine.createTrainer(trainerOptions(options));
  try {
    summary.referenceTokens = (await job.prepare?.(trainer)) ?? 0;
    await hooks.checkpoints?.restore(trainer, summary);
    for (const step of plan.steps()) {
      if (step.index < summary.steps) continue;
      throwIfAborted(hooks.signal);
      const outcome = await job.accumulate(trainer, step);
      if (!Number.isFinite(outcome.loss)) {
        await trainer.zeroGrad();
        throw new StepwardError('NUMERICAL', `step ${step.index + 1}: expected a finite loss, got ${outcome.loss}`);
      }
      const gradNorm = await trainer.apply(step.learningRate);
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
      });
      await hooks.checkpoints?.stepped(trainer, summary);
    }
    if (options.lora || options.adapter !== undefined) {
      if (hooks.adapterDirectory !== undefined)
        await trainer.saveAdapter(hooks.adapterDirectory, hooks.baseModel ?? '');
      await trainer.mergeAdapter();
    }
  } catch (error) {
    if (hooks.signal?.aborted) await hooks.checkpoints?.interrupted(trainer, summary);
    throw error;
  } finally {
    await trainer.dispose();
  }
  summary.seconds = (performance.now() - start) / 1000;
  return summary;
}

export function trainingRecord(summary: TrainingSummary): TrainingRecord {
  const { steps, pairs, examples, tokens, computedTokens, referenceTokens, seconds, finalLoss } = summary;
  return {
    steps,
    ...(pairs === undefined ? { examples } : { pairs }),
    tokens,
    computed_tokens: computedTokens,
    ...(pairs === undefined ? {} : { reference_tokens: referenceTokens }),
    final_loss: finalLoss,
    seconds,
  };
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new StepwardError('CANCELLED', 'interrupted', { cause: signal.reason });
}
