// Which items an optimiser step takes: the plan of a whole training, made step by step. Shared by pairs and examples.

import type { ResolvedOptimizer } from './options.js';
import { scheduleFactor, warmupSteps } from './schedule.js';

export interface PlannedStep {
  /** 0 for the first. */
  index: number;
  /** Passes over the data once this step is done, fractional. */
  epoch: number;
  learningRate: number;
  items: number[];
}

export interface StepPlan {
  total: number;
  perEpoch: number;
  steps(): Generator<PlannedStep>;
}

/**
 * Cuts each epoch's order into steps of batchSize items; the last step of an epoch may be smaller and never reaches
 * into the next epoch, as in transformers' Trainer.
 */
export function planSteps(count: number, orderOf: (epoch: number) => number[], options: ResolvedOptimizer): StepPlan {
  const perEpoch = Math.ceil(count / options.batchSize);
  const total = options.maxSteps ?? Math.max(1, Math.ceil(options.epochs * perEpoch));
  const warmup = warmupSteps(options.warmup, total);
  function* steps(): Generator<PlannedStep> {
    let order: number[] = [];
    for (let index = 0; index < total; index++) {
      const inEpoch = index % perEpoch;
      if (inEpoch === 0) order = orderOf(Math.floor(index / perEpoch));
      yield {
        index,
        epoch: (index + 1) / perEpoch,
        learningRate: options.learningRate * scheduleFactor(options.schedule, index, total, warmup),
        items: order.slice(inEpoch * options.batchSize, (inEpoch + 1) * options.batchSize),
      };
    }
  }
  return { total, perEpoch, steps };
}
