// Supervised fine-tuning over forests: the mean negative log-prob of the weighted tokens of a step. Examples that begin alike
// share a tree; attention along its paths keeps them from seeing each other.

import { exampleLength } from '../data/length.js';
import { StepwardError } from '../errors.js';
import type { EngineLike, ForestData, TrainerLike } from '../native/types.js';
import { exampleRecord } from './failure.js';
import { largestBatchOf, type PackedSize, sizeOfForest } from './memory.js';
import { TokenMeter } from './metrics.js';
import { resolveOptimizer } from './options.js';
import { packStep } from './packing/batches.js';
import { sharingCost, type TreeCost } from './packing/cost.js';
import { checkPacking, chooseChecked, completionsOf, firstShared, scoredSegments } from './packing/self-check.js';
import { itemOfExample, lengthOf, type TrainingItem, type TrainingPath } from './packing/sequences.js';
import { itemsOf, type PlacedPath, packTrees } from './packing/trees.js';
import { runTraining } from './run.js';
import { epochOrder } from './shuffle.js';
import { type PlannedStep, planSteps } from './steps.js';
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

  const cost = sharingCost(options.sharing, engine.info);
  const membersOf = (step: PlannedStep): SftExample[] => step.items.map((i) => examples[i] as SftExample);
  let budget = 1;
  const batchesOf = (step: PlannedStep): ExampleBatch[] => packExamples(membersOf(step), budget, cost);
  let atHand: { step: PlannedStep; index: number; batches: ExampleBatch[] } | undefined;

  return runTraining(
    engine,
    plan,
    {
      largestBatch: largestBatchOf(
        plan,
        (step) => membersOf(step).map(exampleLength),
        (step, tokens) => packExamples(membersOf(step), tokens, cost).map(sizeOf),
      ),
      useBudget(tokens) {
        budget = tokens;
      },
      async prepare(trainer) {
        atHand = firstShared(plan, batchesOf);
        const batch = atHand?.batches[atHand.index];
        return batch ? checkBatch(engine, trainer, batch, hooks.signal) : {};
      },
      async accumulate(trainer, step) {
        const members = membersOf(step);
        const tokenNorm = members.reduce((sum, example) => sum + scoredTokens(example), 0);
        const meter = new TokenMeter();
        let loss = 0;
        let computedTokens = 0;
        const batches = batchesOf(step);
        for (const [index, batch] of batches.entries()) {
          atHand = { step, index, batches };
          const { forest, segmentWeight } = batch;
          const result = await trainer.accumulateSft({ forest, segmentWeight, tokenNorm }, hooks.signal);
          loss += result.loss;
          computedTokens += result.computedTokens;
          if (result.statistics) meter.add(result.statistics);
          // The step has failed; atHand stays at the batch that did it.
          if (!Number.isFinite(result.loss)) break;
        }
        const tokens = members.reduce((sum, example) => sum + exampleLength(example), 0);
        const { entropy, mean_token_accuracy } = meter.metrics();
        return {
          loss,
          tokens,
          computedTokens,
          metrics: {
            ...(entropy !== undefined && { entropy }),
            ...(mean_token_accuracy !== undefined && { mean_token_accuracy }),
            'tree/token_ratio': tokens / computedTokens,
          },
        };
      },
      batchAtHand(whole) {
        if (!atHand) return undefined;
        const { step, index, batches } = atHand;
        const members = batches.flatMap((batch, b) => (whole || b === index ? batch.members : []));
        const numbers = members.map((m) => step.items[m] as number);
        return {
          step: step.index + 1,
          ...(!whole && { microBatch: index + 1 }),
          records: numbers.map((i) => exampleRecord(examples[i] as SftExample)),
          values: numbers.map((example) => ({ example })),
        };
      },
    },
    options,
    { examples: examples.length },
    hooks,
  );
}

function sizeOf({ forest, segmentWeight }: ExampleBatch): PackedSize {
  const { offsets } = forest;
  const scored = segmentWeight.reduce(
    (sum, weight, s) => sum + (weight === 0 ? 0 : (offsets[s + 1] as number) - (offsets[s] as number)),
    0,
  );
  return { ...sizeOfForest(forest), scoredTokens: scored };
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

export interface ExampleBatch {
  /** Indices of the step's examples. */
  members: number[];
  /** Their items and where they lie in the forest, in the same order. */
  items: TrainingItem[];
  placed: PlacedPath[];
  forest: ForestData;
  /** [S] sum of the weights of the examples that score the segment: a token that they share counts once for each. */
  segmentWeight: Float32Array;
  /** Whether a token of the forest belongs to more than one example. */
  shares: boolean;
}

/** Micro-batches of an optimiser step's examples. `cost`: decides what is shared; undefined: nothing is. */
export function packExamples(
  examples: readonly SftExample[],
  budget: number,
  cost: TreeCost | undefined,
): ExampleBatch[] {
  const items = examples.map(itemOfExample);
  return packStep(items, budget, cost).map((batch) => {
    const members = itemsOf(batch);
    const { forest, placed, shares } = packTrees(items, batch);
    const segmentWeight = new Float32Array(forest.parents.length);
    for (const [m, [path]] of placed.entries()) {
      const pieces = items[members[m] as number]?.paths[0]?.pieces ?? [];
      for (const [i, segments] of (path as PlacedPath).pieces.entries()) {
        for (const s of segments) segmentWeight[s] = (segmentWeight[s] as number) + (pieces[i]?.weight ?? 0);
      }
    }
    return {
      members,
      items: members.map((i) => items[i] as TrainingItem),
      placed: placed.map(([path]) => path as PlacedPath),
      forest,
      segmentWeight,
      shares,
    };
  });
}

/** Log-probs of some examples in their batch against chains of their own. A root's first token has none: it is left out. */
async function checkBatch(
  engine: EngineLike,
  trainer: TrainerLike,
  batch: ExampleBatch,
  signal: AbortSignal | undefined,
): Promise<{ packingCheck?: number }> {
  const paths = batch.items.map(({ paths: [path] }) => path as TrainingPath);
  const able = paths.flatMap((path, m) => (path.context.length > 0 ? [m] : []));
  const scored = able.map((m) => scoredSegments(batch.placed[m] as PlacedPath, paths[m] as TrainingPath));
  const chosen = chooseChecked(
    able.map((m) => lengthOf(paths[m] as TrainingPath)),
    scored.map((segments) => segments.length),
  );
  if (chosen.length === 0) return {};
  const completions = completionsOf(chosen.map((k) => scored[k] as number[]));
  const packed = await trainer.referenceLogprobs({ forest: batch.forest, ...completions }, signal);
  const checked = chosen.map((k, c) => ({
    name: `example ${batch.members[able[k] as number]} of its step`,
    path: paths[able[k] as number] as TrainingPath,
    packed: packed[c] as number,
  }));
  return { packingCheck: await checkPacking(trainer, engine.info.dtype, checked, signal) };
}
