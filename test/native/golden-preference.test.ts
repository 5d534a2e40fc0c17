// Preference losses, their gradients and short SGD runs against torch autograd on unpacked pairs.

import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import type { PreferenceBatch, PreferenceResult } from '../../src/native/types.js';
import {
  GOLDENS,
  modelFolder,
  type PreferenceGolden,
  type PreferenceSettings,
  type RunGolden,
  readGolden,
  scratchFolder,
  worst,
} from '../helpers/goldens.js';
import {
  type Gradient,
  HUGE_RATE,
  recoverGradient,
  summaryErrors,
  tensorErrors,
  worstEntry,
} from '../helpers/gradients.js';
import { packedBatch, pairBatches, unpack } from '../helpers/preference-batch.js';
import { readModel, readTensors } from '../helpers/safetensors.js';

const { single, runs } = readGolden<{ single: PreferenceGolden[]; runs: RunGolden[] }>('dpo.json');
const scratch = scratchFolder();
let folders = 0;

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

/** Accumulates the batches of one optimiser step on a fresh copy of a golden model: results, and the gradient. */
async function gradientOf(model: string, makeBatches: (own: Float64Array) => PreferenceBatch[], own?: PreferenceBatch) {
  const engine = await Engine.load({ directory: modelFolder(model), device: 'cpu', dtype: 'float32' });
  const trainer = await engine.createTrainer({ optimizer: 'sgd' });
  try {
    const reference = own ? await trainer.referenceLogprobs(own) : new Float64Array(0);
    const results: PreferenceResult[] = [];
    for (const batch of makeBatches(reference)) results.push(await trainer.accumulatePreference(batch));
    const norm = await trainer.apply(HUGE_RATE);
    const saved = join(scratch, `saved-${folders++}`);
    await engine.save(saved);
    const gradient = recoverGradient(readModel(modelFolder(model)), readModel(saved), HUGE_RATE);
    return { results, loss: results.reduce((sum, { loss }) => sum + loss, 0), gradient, norm };
  } finally {
    await trainer.dispose();
    await engine.dispose();
  }
}

const globalNorm = (gradient: Gradient) => Math.hypot(...[...gradient.values()].map((values) => Math.hypot(...values)));

describe.each(single)('$model, $name', (golden) => {
  const { trees, options } = golden;
  const zeros = new Float32Array(golden.completion_logprobs.length);
  const own = golden.reference ? undefined : packedBatch(trees, options, zeros);

  it('packed as trees it has the loss, the log-probs and the gradient of autograd', async () => {
    const batches = (reference: Float64Array) => [packedBatch(trees, options, golden.reference ?? reference)];
    const { results, loss, gradient, norm } = await gradientOf(golden.model, batches, own);
    expect(Math.abs(loss - golden.metrics.loss!) / Math.max(1, Math.abs(golden.metrics.loss!))).toBeLessThanOrEqual(
      1e-5,
    );
    expect(worst(results[0]!.completionLogprobs, golden.completion_logprobs)).toBeLessThanOrEqual(2e-4);
    const found = worstEntry(summaryErrors(gradient, golden.gradient));
    expect(found.error, found.name).toBeLessThanOrEqual(1e-5);
    expect(Math.abs(norm / globalNorm(gradient) - 1)).toBeLessThanOrEqual(1e-5);
    if (golden.gradient_file) {
      const exact = new Map(
        [...readTensors(join(GOLDENS, golden.gradient_file))].map(([name, { values }]) => [name, values]),
      );
      expect([...gradient.keys()].sort()).toEqual([...exact.keys()].sort());
      const whole = worstEntry(tensorErrors(gradient, exact));
      expect(whole.error, whole.name).toBeLessThanOrEqual(1e-5);
    }
  });

  it('one pair at a time it has the same', async () => {
    const packed = await gradientOf(golden.model, (own) => [packedBatch(trees, options, golden.reference ?? own)], own);
    const apart = await gradientOf(golden.model, (own) => pairBatches(trees, options, golden.reference ?? own), own);
    expect(Math.abs(packed.loss - apart.loss) / Math.max(1, Math.abs(packed.loss))).toBeLessThanOrEqual(1e-5);
    const found = worstEntry(tensorErrors(apart.gradient, packed.gradient));
    expect(found.error, found.name).toBeLessThanOrEqual(1e-5);
    const exact = worstEntry(summaryErrors(apart.gradient, golden.gradient));
    expect(exact.error, exact.name).toBeLessThanOrEqual(1e-5);
  });
});

const SIGMOID: PreferenceSettings = { beta: 0.1, loss: 'sigmoid', label_smoothing: 0, sft_weight: 0 };

it.each(['llama', 'mistral', 'qwen2', 'qwen3'])('the loss at step 0 is ln 2 within 1e-6: %s', async (name) => {
  const { trees } = single.find(({ model, reference }) => model === name && !reference)!;
  const unweighted = trees.map(({ prompt_ids, steps }) => ({
    prompt_ids,
    steps: steps.map(({ chosen_ids, rejected }) => ({ chosen_ids, rejected: rejected.map(({ ids }) => ({ ids })) })),
  }));
  const batch = packedBatch(unweighted, SIGMOID, new Float32Array(unpack(trees).completions.length));
  const { loss, results } = await gradientOf(name, (own) => [{ ...batch, reference: own }], batch);
  expect(Math.abs(loss - Math.LN2)).toBeLessThanOrEqual(1e-6);
  for (const value of results[0]!.pairLoss) expect(value).toBe(Math.fround(Math.LN2));
});

it('32 micro-batches of one pair give the gradient of one batch of 32 within 1e-6', async () => {
  const { trees } = single.find(({ model, name }) => model === 'llama' && name === 'tree records')!;
  const { completions, pairs } = unpack(trees);
  const many = Array.from({ length: 32 }, (_, i) => {
    const { chosen, rejected } = pairs[i % pairs.length]!;
    const { path, ids } = completions[chosen]!;
    const prompt_ids = [i % 7, ...path];
    return { prompt_ids, steps: [{ chosen_ids: ids, rejected: [{ ids: completions[rejected]!.ids }] }] };
  });
  const reference = Float32Array.from({ length: 64 }, (_, i) => -30 + 7 * Math.sin(3 * i));
  const together = await gradientOf('llama', () => [packedBatch(many, SIGMOID, reference)]);
  const apart = await gradientOf('llama', () =>
    many.map((tree, i) => ({ ...packedBatch([tree], SIGMOID, reference.subarray(2 * i, 2 * i + 2)), pairNorm: 32 })),
  );
  expect(apart.results).toHaveLength(32);
  expect(Math.abs(apart.loss - together.loss)).toBeLessThanOrEqual(1e-6);
  const flat = ({ gradient }: typeof apart) =>
    new Map([['all', [...gradient.values()].flatMap((values) => [...values])]]);
  expect(tensorErrors(flat(apart), flat(together)).all).toBeLessThanOrEqual(1e-6);
});

it.each(runs)('an SGD run keeps to autograd: $model, $options.loss', async (golden) => {
  const engine = await Engine.load({ directory: modelFolder(golden.model), device: 'cpu', dtype: 'float32' });
  const trainer = await engine.createTrainer({ optimizer: 'sgd' });
  try {
    const { pairs, completions } = unpack(golden.trees);
    const zeros = new Float32Array(completions.length);
    const reference = await trainer.referenceLogprobs(packedBatch(golden.trees, golden.options, zeros));
    for (const metrics of golden.steps) {
      const result = await trainer.accumulatePreference(packedBatch(golden.trees, golden.options, reference));
      const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
      const reward = (completion: number) => {
        const logprob = result.completionLogprobs[completion]!;
        const simpo = golden.options.loss === 'simpo';
        return (
          golden.options.beta *
          (simpo ? logprob / completions[completion]!.ids.length : logprob - reference[completion]!)
        );
      };
      const found = {
        loss: result.loss,
        'rewards/chosen': mean(pairs.map(({ chosen }) => reward(chosen))),
        'rewards/rejected': mean(pairs.map(({ rejected }) => reward(rejected))),
        'logps/chosen': mean(pairs.map(({ chosen }) => result.completionLogprobs[chosen]!)),
        'logps/rejected': mean(pairs.map(({ rejected }) => result.completionLogprobs[rejected]!)),
      };
      for (const [key, value] of Object.entries(found)) {
        expect(Math.abs(value - metrics[key]!) / Math.max(0.1, Math.abs(metrics[key]!)), key).toBeLessThanOrEqual(1e-4);
      }
      await trainer.apply(golden.learning_rate);
    }
  } finally {
    await trainer.dispose();
    await engine.dispose();
  }
});
