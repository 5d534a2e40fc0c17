// What both trainings of a run share: the recipe's optimiser keys as options, and train.jsonl beside the model.

import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { SftConfig, UpdateConfig } from '../config/recipe.js';
import { JsonlWriter } from '../data/jsonl.js';
import { writeModelFormat } from '../prompts/load.js';
import { finished, type ModelFolder, writeJson } from '../run/folder.js';
import { saveFailure } from '../training/failure.js';
import { trainingRecord } from '../training/run.js';
import type { OptimizerOptions, StepMetrics, TrainingHooks, TrainingSummary } from '../training/types.js';
import { type RunContext, secondsSince } from './context.js';
import type { Policy } from './policy.js';

export function optimizerOptions(config: SftConfig | UpdateConfig, seed: number): OptimizerOptions {
  return {
    optimizer: config.optimizer,
    beta2: config.adam_beta2,
    learningRate: config.lr,
    schedule: config.schedule,
    warmup: config.warmup,
    batchSize: config.batch_size,
    epochs: config.epochs,
    ...(config.max_steps === undefined ? {} : { maxSteps: config.max_steps }),
    maxGradNorm: config.max_grad_norm,
    weightDecay: config.weight_decay,
    microBatchTokens: config.micro_batch_tokens,
    seed,
    ...(config.lora ? { lora: config.lora } : {}),
    ...(config.freeze ? { freeze: config.freeze } : {}),
  };
}

/**
 * Trains and writes train.jsonl, train.json and last the model. `check` sees each step's metrics and how many steps
 * there will be, and may throw to stop: then train.jsonl is kept to be looked at and there is no model. A number that is not
 * finite stops it too and leaves failed/: see saveFailure.
 */
export async function trainInto(
  target: ModelFolder,
  policy: Policy,
  context: RunContext,
  stage: string,
  train: (hooks: TrainingHooks) => Promise<TrainingSummary>,
  check: (metrics: StepMetrics, total: number) => void = () => undefined,
): Promise<void> {
  const { hooks } = context;
  const start = performance.now();
  rmSync(target.path('train.json'), { force: true });
  const writer = new JsonlWriter(target.path('train.jsonl'));
  let total = 0;
  try {
    const summary = await train({
      ...(hooks.signal ? { signal: hooks.signal } : {}),
      onPlan: (steps) => {
        total = steps;
        hooks.progress?.(stage, 0, steps);
      },
      onFailure: async (failure) => {
        const failed = join(target.directory, 'failed');
        await saveFailure(failed, failure, (directory) => policy.engine.save(directory));
        return `${failed} holds that micro-batch and the weights before the step`;
      },
      onStep: (metrics) => {
        writer.write(metrics);
        hooks.progress?.(stage, metrics.step ?? 0, total, `loss ${(metrics.loss ?? Number.NaN).toFixed(4)}`);
        check(metrics, total);
      },
    });
    await finished(target.model, async (part) => {
      await policy.engine.save(part);
      writeModelFormat(part, policy.prompts.format);
      writeJson(target.path('train.json'), { ...trainingRecord(summary), seconds: secondsSince(start) });
    });
  } finally {
    writer.close();
  }
}
