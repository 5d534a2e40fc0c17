// Supervised fine-tuning over forests of single branches: the mean negative log-prob of the weighted tokens of a step.

import { ForestBuilder } from '../data/forest.js';
import { StepwardError } from '../errors.js';
import type { EngineLike, SftBatch } from '../native/types.js';
import { resolveOptimizer } from './options.js';
import { runTraining } from './run.js';
import { epochOrder } from './shuffle.js';
import { planSteps } from './steps.js';
import type { SftExample, SftOptions, TrainingHooks, TrainingSummary } from './types.js';

export type { SftExample, SftOptions } from './types.js';

/**
 * Trains the engine's model in place; adapters are merged into it at the end. Throws INVALID_ARGUMENT, NUMERICAL,
 * CANCELLED and what the engine throws.
 */
export async function trainSft(
  engine: EngineLike,
  examples: SftExample[],
  given: SftOptions = {},
  hooks: TrainingHooks = {},
): Promise<TrainingSummary> {
  const options = resolveOptimizer(given, 1e-5);
  if (examples.length === 0)
    throw new StepwardError('INVALID_ARGUMENT', 'SFT: expected at least one example, got none');
  for (const [i, example] of examples.entries()) {
    if (!(scoredTokens(example) > 0)) {
      throw new StepwardError(
        'INVALID_ARGUMENT',
        `SFT example ${i}: expected at least one token to train on, got none`,
      );
    }
  }
  const plan = planSteps(
    examples.length,
    (epoch) => epochOrder(examples.length, options.seed, epoch, options.shuffle),
    options,
  );

  return runTraining(
    engine,
    plan,
    {
      async accumulate(trainer, step) {
        const members = step.items.map((i) => examples[i] as SftExample);
        const tokenNorm = members.reduce((sum, example) => sum + scoredTokens(example), 0);
        let loss = 0;
        let computedTokens = 0;
        for (const batch of packExamples(members, options.microBatchTokens)) {
          const result = await trainer.accumulateSft(sftBatch(batch, tokenNorm), hooks.signal);
          loss += result.loss;
          computedTokens += result.computedTokens;
        }
        return {
          loss,
          tokens: members.reduce((sum, example) => sum + length(example), 0),
          computedTokens,
          metrics: {},
        };
      },
    },
    options,
    { examples: examples.length },
    hooks,
  );
}

function length(example: SftExample): number {
  return example.segments.reduce((sum, segment) => sum + segment.ids.length, 0);
}

/** Weighted tokens that carry loss. Nothing predicts the first token of a tree, so it never does. */
export function scoredTokens(example: SftExample): number {
  let sum = 0;
  let position = 0;
  for (const { ids, weight } of example.segments) {
    sum += weight * (ids.length - (position === 0 && ids.length > 0 ? 1 : 0));
    position += ids.length;
  }
  return sum;
}

/** Consecutive examples, at most `budget` tokens each where single examples allow. */
export function packExamples(examples: SftExample[], budget: number): SftExample[][] {
  const batches: SftExample[][] = [];
  let used = 0;
  for (const example of examples) {
    const tokens = length(example);
    const open = batches.at(-1);
    if (open && used + tokens <= budget) {
      open.push(example);
      used += tokens;
    } else {
      batches.push([example]);
      used = tokens;
    }
  }
  return batches;
}

export function sftBatch(examples: SftExample[], tokenNorm: number): SftBatch {
  const builder = new ForestBuilder();
  const weights: number[] = [];
  for (const example of examples) {
    let parent: number | undefined;
    for (const { ids, weight } of example.segments) {
      if (ids.length === 0) continue;
      parent = parent === undefined ? builder.root(ids) : builder.child(parent, ids);
      weights.push(weight);
    }
  }
  const { forest, segments } = builder.build();
  const segmentWeight = new Float32Array(weights.length);
  for (const [handle, weight] of weights.entries()) segmentWeight[segments[handle] as number] = weight;
  return { forest, segmentWeight, tokenNorm };
}
