// The dpo command: its weight change against torch autograd, its metrics against TRL's DPOTrainer, and CPOTrainer for simpo,
// on the same ids.

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Options, readLines, succeed, writeLines } from '../helpers/command.js';
import {
  type BatchedGolden,
  type Metrics,
  modelFolder,
  type PreferenceGolden,
  type PreferenceSettings,
  type RunGolden,
  readGolden,
  scratchFolder,
  type TrlGolden,
} from '../helpers/goldens.js';
import { HUGE_RATE, recoverGradient, summaryErrors, worstEntry } from '../helpers/gradients.js';
import { unpack } from '../helpers/preference-batch.js';
import { readModel } from '../helpers/safetensors.js';

const { single, runs, batched } = readGolden<{
  single: PreferenceGolden[];
  runs: RunGolden[];
  batched: BatchedGolden[];
}>('dpo.json');
const scratch = scratchFolder();
let folders = 0;

/** Trains on all records as one batch a step; the folder of the new model. */
async function dpo(model: string, records: object[], settings: PreferenceSettings, options: Options): Promise<string> {
  const output = join(scratch, `out-${folders++}`);
  await succeed('dpo', {
    model: modelFolder(model),
    data: writeLines(scratch, records),
    output,
    device: 'cpu',
    beta: settings.beta,
    loss: settings.loss,
    'label-smoothing': settings.label_smoothing,
    'sft-weight': settings.sft_weight,
    ...(settings.gamma !== undefined && { gamma: settings.gamma }),
    ...(settings.mix !== undefined && { mix: settings.mix }),
    ...options,
  });
  return output;
}

function expectMetrics(found: Metrics, wanted: Metrics, step: number) {
  for (const [key, value] of Object.entries(wanted)) {
    const error = Math.abs(found[key]! - value) / Math.max(Math.abs(value), 0.1);
    expect(error, `${key} of step ${step}: expected ${value}, got ${found[key]}`).toBeLessThanOrEqual(1e-4);
  }
}

describe.each(single.filter(({ records }) => records))('one SGD step on $name, $model', (golden) => {
  it.each<[string, Options]>([
    ['one micro-batch', {}],
    ['micro-batches of one tree or less', { 'micro-batch-tokens': 1 }],
  ])('moves the weights by the gradient of autograd: %s', async (_label, extra) => {
    const pairs = unpack(golden.trees).pairs.length;
    const output = await dpo(golden.model, golden.records!, golden.options, {
      optimizer: 'sgd',
      lr: HUGE_RATE,
      'max-steps': 1,
      'max-grad-norm': 0,
      'batch-size': pairs,
      ...extra,
    });
    const gradient = recoverGradient(readModel(modelFolder(golden.model)), readModel(output), HUGE_RATE);
    const found = worstEntry(summaryErrors(gradient, golden.gradient));
    expect(found.error, found.name).toBeLessThanOrEqual(1e-5);
    const metrics = readLines<Metrics>(join(output, 'train.jsonl'));
    expect(metrics).toHaveLength(1);
    expectMetrics(metrics[0]!, golden.metrics, 1);
    const weighted = golden.records!.some((record) => JSON.stringify(record).includes('"weight"'));
    if (!weighted && golden.options.sft_weight === 0 && golden.options.loss === 'sigmoid') {
      expect(Math.abs(metrics[0]!.loss! - Math.LN2)).toBeLessThanOrEqual(1e-6);
    }
  });
});

it.each(runs)('four SGD steps keep to autograd: $model, $options.loss', async (golden) => {
  const pairs = unpack(golden.trees).pairs.length;
  const output = await dpo(golden.model, golden.trees, golden.options, {
    optimizer: 'sgd',
    schedule: 'constant',
    lr: golden.learning_rate,
    epochs: golden.steps.length,
    'batch-size': pairs,
    'max-grad-norm': 0,
  });
  const metrics = readLines<Metrics>(join(output, 'train.jsonl'));
  expect(metrics).toHaveLength(golden.steps.length);
  for (const [index, wanted] of golden.steps.entries()) expectMetrics(metrics[index]!, wanted, index + 1);
});

it.each(batched)('steps that cut trees apart keep to autograd: $model, $batch_size pairs a step', async (golden) => {
  const output = await dpo(golden.model, golden.trees, golden.options, {
    optimizer: 'sgd',
    schedule: 'constant',
    lr: golden.learning_rate,
    'batch-size': golden.batch_size,
    'max-grad-norm': 0,
    'no-shuffle': true,
  });
  const metrics = readLines<Metrics>(join(output, 'train.jsonl'));
  expect(metrics).toHaveLength(golden.steps.length);
  for (const [index, wanted] of golden.steps.entries()) expectMetrics(metrics[index]!, wanted, index + 1);
  // Rate -1 turns w0 - w1 into the change itself. Rounding of the weights limits how well it can be seen.
  const change = recoverGradient(readModel(modelFolder(golden.model)), readModel(output), -1);
  const found = worstEntry(summaryErrors(change, golden.change));
  expect(found.error, found.name).toBeLessThanOrEqual(1e-4);
});

const trl = [...readGolden<TrlGolden[]>('trl.json'), ...readGolden<TrlGolden[]>('cpo.json')];
it.each(trl)("has TRL's metrics: $name", async (golden) => {
  const { training } = golden;
  const output = await dpo(golden.model, golden.trees, golden.options, {
    optimizer: training.optim === 'sgd' ? 'sgd' : 'adamw',
    lr: training.learning_rate,
    schedule: training.lr_scheduler_type,
    warmup: training.warmup_steps ?? 0,
    'max-grad-norm': training.max_grad_norm,
    'weight-decay': training.weight_decay,
    'max-steps': golden.steps.length,
    'batch-size': golden.pairs,
  });
  const metrics = readLines<Metrics>(join(output, 'train.jsonl'));
  expect(metrics).toHaveLength(golden.steps.length);
  for (const [index, wanted] of golden.steps.entries()) expectMetrics(metrics[index]!, wanted, index + 1);
});
