// 200 steps of AdamW beside TRL's DPOTrainer and transformers' Trainer: the same ids in the same order from the same
// weights. What one step gets wrong, the steps after it carry on.

import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import { trainSft } from '../../src/training/sft.js';
import { type Options, readLines, succeed, writeLines } from '../helpers/command.js';
import {
  type GoldenTree,
  type Metrics,
  modelFolder,
  readGolden,
  type SftGolden,
  scratchFolder,
} from '../helpers/goldens.js';

interface Training {
  learning_rate: number;
  batch_size: number;
  max_steps: number;
  schedule: 'linear';
  max_grad_norm: number;
  weight_decay: number;
}

interface CurvesGolden {
  model: string;
  training: Training;
  /** Per metric one value a step. */
  steps: Record<string, number[]>;
}

const [dpo] = readGolden<[CurvesGolden & { beta: number; trees: GoldenTree[] }]>('dpo-curves.json');
const [sft] = readGolden<[CurvesGolden & { chains: SftGolden['chains'] }]>('sft-curves.json');
const BAR = 1e-4;
const scratch = scratchFolder();

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

function expectCurves(found: Metrics[], wanted: CurvesGolden['steps']) {
  for (const [key, values] of Object.entries(wanted)) {
    expect(found).toHaveLength(values.length);
    const errors = values.map((value, step) => Math.abs(found[step]![key]! - value));
    // A value that is missing compares as NaN and must not pass.
    const step = errors.findIndex((error) => !(error <= BAR));
    expect(step, `${key} of step ${step + 1}: expected ${values[step]}, got ${found[step]?.[key]}`).toBe(-1);
  }
}

describe("TRL's preference training", () => {
  it('moves far enough for a difference to show', () => {
    expect(Math.max(...dpo.steps.loss!.slice(-16))).toBeLessThan(0.1);
    expect(Math.min(...dpo.steps['rewards/margins']!.slice(-16))).toBeGreaterThan(2);
  });

  it.each<[string, Options]>([
    ['a tree a forward pass', {}],
    ['micro-batches of single pairs', { 'micro-batch-tokens': 1 }],
  ])('has the losses and margins of the dpo command: %s', async (_label, more) => {
    const { training } = dpo;
    const output = join(scratch, `dpo-${Object.keys(more).length}`);
    await succeed('dpo', {
      model: modelFolder(dpo.model),
      data: writeLines(scratch, dpo.trees),
      output,
      device: 'cpu',
      beta: dpo.beta,
      lr: training.learning_rate,
      schedule: training.schedule,
      'batch-size': training.batch_size,
      'max-steps': training.max_steps,
      'max-grad-norm': training.max_grad_norm,
      'weight-decay': training.weight_decay,
      'no-shuffle': true,
      ...more,
    });
    expectCurves(readLines<Metrics>(join(output, 'train.jsonl')), dpo.steps);
  });
});

it("has the losses of transformers' supervised training", async () => {
  const { training } = sft;
  expect(Math.max(...sft.steps.loss!.slice(-16))).toBeLessThan(0.7 * Math.min(...sft.steps.loss!.slice(0, 16)));
  const engine = await Engine.load({ directory: modelFolder(sft.model), device: 'cpu', dtype: 'float32' });
  try {
    const found: Metrics[] = [];
    await trainSft(
      engine,
      sft.chains,
      {
        learningRate: training.learning_rate,
        schedule: training.schedule,
        batchSize: training.batch_size,
        maxSteps: training.max_steps,
        maxGradNorm: training.max_grad_norm,
        weightDecay: training.weight_decay,
        shuffle: false,
      },
      { onStep: (metrics) => found.push(metrics) },
    );
    expectCurves(found, sft.steps);
  } finally {
    await engine.dispose();
  }
});
