import { describe, expect, it } from 'vitest';
import { trainPreference } from '../../src/training/preference.js';
import type { PreferenceTree, StepMetrics } from '../../src/training/types.js';
import { cost, fakeTrainerEngine } from '../helpers/fake-trainer.js';
import { withoutTimes } from '../helpers/without-times.js';

const sum = (ids: number[]): number => ids.reduce((total, id) => total + cost(id), 0);

/** `count` trees of two steps with one rejected step each: 2 * count pairs. */
const makeTrees = (count: number): PreferenceTree[] =>
  Array.from({ length: count }, (_, i) => ({
    promptIds: [i, 1, 2],
    steps: [
      { chosenIds: [3, 4], rejected: [{ ids: [15, 23, 7] }] },
      { chosenIds: [5], rejected: [{ ids: [31, 6] }] },
    ],
  }));

async function train(trees: PreferenceTree[], options: Parameters<typeof trainPreference>[2], decay?: number) {
  const { engine, trainer } = fakeTrainerEngine(decay);
  const steps: StepMetrics[] = [];
  const summary = await trainPreference(engine, trees, options, { onStep: (metrics) => steps.push(metrics) });
  return { trainer, steps, summary };
}

describe('trainPreference', () => {
  it('starts at ln 2 with zero margins, since policy and reference go through the same packing', async () => {
    const { steps } = await train(makeTrees(3), { batchSize: 100 });
    expect(steps).toHaveLength(1);
    expect(steps[0]?.loss).toBeCloseTo(Math.LN2, 6);
    expect(steps[0]?.['rewards/margins']).toBe(0);
    expect(steps[0]?.['rewards/accuracies']).toBe(0);
  });

  it("gives TRL's metrics: beta times the log-ratio, sums of log-probs, means over the step's pairs", async () => {
    // The second step is taken after apply() has halved the scale: log-probs are half of the reference's.
    const { steps } = await train(makeTrees(1), { batchSize: 2, epochs: 2, beta: 0.5, shuffle: false });
    const chosen = [sum([3, 4]), sum([5])];
    const rejected = [sum([15, 23, 7]), sum([31, 6])];
    const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
    expect(steps[0]?.['logps/chosen']).toBeCloseTo(-mean(chosen), 6);
    const second = steps[1] as StepMetrics;
    expect(second['logps/chosen']).toBeCloseTo(-mean(chosen) / 2, 6);
    expect(second['logps/rejected']).toBeCloseTo(-mean(rejected) / 2, 6);
    expect(second['rewards/chosen']).toBeCloseTo((0.5 * mean(chosen)) / 2, 6);
    expect(second['rewards/rejected']).toBeCloseTo((0.5 * mean(rejected)) / 2, 6);
    expect(second['rewards/margins']).toBeCloseTo((0.5 * (mean(chosen) - mean(rejected))) / 2, 6);
    expect(second['rewards/accuracies']).toBe(0);
    const margins = chosen.map((value, i) => (0.5 * (value - (rejected[i] as number))) / 2);
    expect(second.loss).toBeCloseTo(mean(margins.map((margin) => Math.log1p(Math.exp(-margin)))), 6);
    expect(second).toMatchObject({ step: 2, epoch: 2, grad_norm: 2 });
  });

  it('cuts exact optimiser steps across trees, and divides by the pairs of each', async () => {
    const { trainer, steps, summary } = await train(makeTrees(5), { batchSize: 3, shuffle: false });
    expect(steps.map((metrics) => metrics.epoch)).toEqual([0.25, 0.5, 0.75, 1]);
    expect(trainer.batches.map((batch) => [batch.chosen.length, batch.pairNorm])).toEqual([
      [3, 3],
      [3, 3],
      [3, 3],
      [1, 1],
    ]);
    // Chosen steps of 2 and 1 tokens in turn, counted once a pair.
    expect(trainer.batches.map((batch) => batch.tokenNorm)).toEqual([5, 4, 5, 1]);
    expect(summary).toMatchObject({ steps: 4, pairs: 10 });
  });

  it('adds up micro-batches to the same loss and metrics as one batch', async () => {
    const whole = await train(makeTrees(6), { batchSize: 12, epochs: 2 });
    const cut = await train(makeTrees(6), { batchSize: 12, epochs: 2, microBatchTokens: 12 });
    expect(cut.trainer.batches).toHaveLength(12);
    for (const [i, metrics] of whole.steps.entries()) {
      const own = withoutTimes(cut.steps[i] as StepMetrics);
      for (const [name, value] of Object.entries(withoutTimes(metrics))) expect(own[name]).toBeCloseTo(value, 6);
    }
  });

  it('computes each reference log-prob once, before the first step', async () => {
    const { trainer } = await train(makeTrees(4), { batchSize: 4, epochs: 3 });
    const phases = trainer.calls.join(' ');
    // The second call is the packing's check of itself.
    expect(phases).toBe(`reference reference reference ${'accumulate apply '.repeat(6)}dispose`);
  });

  it('gives a pair the same reference in every epoch, however it is packed', async () => {
    const { trainer } = await train(makeTrees(4), { batchSize: 3, epochs: 2, seed: 5 });
    for (const batch of trainer.batches) {
      for (const [c, value] of batch.reference.entries()) {
        const segments = batch.completionSegments.subarray(batch.completionOffsets[c], batch.completionOffsets[c + 1]);
        const { tokens, offsets } = batch.forest;
        const ids = [...segments].flatMap((s) => [...tokens.subarray(offsets[s], offsets[s + 1])]);
        expect(value).toBeCloseTo(-sum(ids), 5);
      }
    }
  });

  it('takes the reference from another engine by the same routine and packing', async () => {
    const { engine, trainer } = fakeTrainerEngine();
    const other = fakeTrainerEngine(0.5, 2);
    const steps: StepMetrics[] = [];
    const hooks = { reference: other.engine, onStep: (metrics: StepMetrics) => void steps.push(metrics) };
    await trainPreference(engine, makeTrees(1), { beta: 1 }, hooks);
    expect(other.trainer.calls).toEqual(['reference', 'dispose']);
    // Its own packing is checked all the same: packed, then alone.
    expect(trainer.calls.slice(0, 3)).toEqual(['reference', 'reference', 'accumulate']);
    // The policy is more likely by one cost of every token.
    expect(steps[0]?.['rewards/chosen']).toBeCloseTo((sum([3, 4]) + sum([5])) / 2, 6);
    expect(steps[0]?.['rewards/rejected']).toBeCloseTo((sum([15, 23, 7]) + sum([31, 6])) / 2, 6);
  });

  it('simpo computes no reference, takes its own defaults, and its rewards are per token', async () => {
    const { trainer, steps, summary } = await train(makeTrees(1), { loss: 'simpo', batchSize: 2 });
    // The two are the check of the packing, on the forest and on chains.
    expect(trainer.calls).toEqual(['reference', 'reference', 'accumulate', 'apply', 'dispose']);
    expect(summary.referenceTokens).toBe(0);
    expect(trainer.batches[0]).toMatchObject({ loss: 'simpo', beta: 2, gamma: 0.5 });
    expect(steps[0]?.['rewards/chosen']).toBeCloseTo((-2 * (sum([3, 4]) / 2 + sum([5]))) / 2, 12);
    expect(steps[0]?.['rewards/rejected']).toBeCloseTo((-2 * (sum([15, 23, 7]) / 3 + sum([31, 6]) / 2)) / 2, 12);
    expect(steps[0]?.['logps/chosen']).toBeCloseTo(-(sum([3, 4]) + sum([5])) / 2, 12);
    const { engine } = fakeTrainerEngine();
    await expect(
      trainPreference(engine, makeTrees(1), { loss: 'simpo' }, { reference: fakeTrainerEngine().engine }),
    ).rejects.toThrow('reference: expected none beside a loss that has no reference, got one');
  });

  it('hands mixes over pair by pair, the option where a pair has none, and nothing where all are 1', async () => {
    const [tree] = makeTrees(1) as [PreferenceTree];
    const mixed = { ...tree, steps: [{ chosenIds: [3, 4], rejected: [{ ids: [15], mix: 0.25 }, { ids: [23] }] }] };
    const some = await train([mixed], { mix: 0.75, shuffle: false });
    expect(some.trainer.batches[0]?.mix).toEqual(Float32Array.of(0.25, 0.75));
    const none = await train([tree], { mix: 1 });
    expect(none.trainer.batches[0]?.mix).toBeUndefined();
  });

  it('keeps reference log-probs in float64', async () => {
    const { trainer } = await train([{ promptIds: [1], steps: [{ chosenIds: [3], rejected: [{ ids: [5, 6] }] }] }], {});
    expect(trainer.batches[0]?.reference).toBeInstanceOf(Float64Array);
    const { engine, trainer: third } = fakeTrainerEngine(0.5, 1 / 3);
    await trainPreference(engine, makeTrees(1), {});
    const values = [...(third.batches[0]?.reference ?? [])];
    expect(values.some((value) => value !== Math.fround(value))).toBe(true);
  });

  it('takes max steps over epochs, repeats the data for it, and computes references only for what it uses', async () => {
    const few = await train(makeTrees(4), {
      batchSize: 2,
      epochs: 5,
      maxSteps: 1,
      optimizer: 'sgd',
      learningRate: 0.5,
    });
    expect(few.trainer.calls).toEqual(['reference', 'reference', 'accumulate', 'apply', 'dispose']);
    expect(few.trainer.rates).toEqual([0.5]);
    expect(few.trainer.options).toMatchObject({ optimizer: 'sgd', maxGradNorm: 0, weightDecay: 0 });
    const many = await train(makeTrees(1), { batchSize: 2, maxSteps: 3 });
    expect(many.steps.map((metrics) => metrics.epoch)).toEqual([1, 2, 3]);
  });

  it('follows the linear schedule by default and clips AdamW at 1', async () => {
    const { trainer } = await train(makeTrees(4), { batchSize: 2, learningRate: 1 });
    expect(trainer.rates).toEqual([1, 0.75, 0.5, 0.25]);
    expect(trainer.options).toMatchObject({ optimizer: 'adamw', maxGradNorm: 1 });
  });

  it('counts tokens computed, and what unpacked pairs would have cost', async () => {
    const { summary } = await train(makeTrees(1), { batchSize: 2 });
    expect(summary.tokens).toBe(2 * 3 + 2 + 3 + (2 * 5 + 1 + 2));
    expect(summary.computedTokens).toBe(3 + 2 + 3 + 1 + 2);
    expect(summary.referenceTokens).toBe(summary.computedTokens);
  });

  it('computes the same without sharing, from as many tokens as unpacked pairs have', async () => {
    const shared = await train(makeTrees(2), { batchSize: 4, epochs: 2 });
    const apart = await train(makeTrees(2), { batchSize: 4, epochs: 2, sharing: 'off' });
    expect(apart.summary.computedTokens).toBe(apart.summary.tokens);
    expect(apart.summary.packingCheck).toBeUndefined();
    expect(shared.summary.packingCheck).toBeLessThan(1e-6);
    for (const batch of apart.trainer.batches) expect(batch.completionOffsets.length - 1).toBe(2 * batch.chosen.length);
    for (const [i, metrics] of shared.steps.entries()) {
      for (const name of ['loss', 'rewards/margins', 'logps/chosen', 'logps/rejected'])
        expect(apart.steps[i]?.[name]).toBeCloseTo(metrics[name] as number, 6);
      expect(apart.steps[i]?.['tree/token_ratio']).toBe(1);
      expect(metrics['tree/token_ratio']).toBeGreaterThan(2);
    }
  });

  it('stops where packed and unpacked log-probs differ, and says where', async () => {
    const { engine, trainer } = fakeTrainerEngine();
    const honest = trainer.referenceLogprobs;
    // A branch of a tree sees its sibling.
    trainer.referenceLogprobs = async (batch) => {
      const values = await honest(batch);
      const roots = batch.forest.parents.filter((parent) => parent < 0).length;
      return roots < values.length ? values.map((value) => value - 0.1) : values;
    };
    await expect(trainPreference(engine, makeTrees(1), { batchSize: 2 })).rejects.toMatchObject({
      code: 'NUMERICAL',
      message: expect.stringMatching(
        /^step 1, micro-batch 1: packed and unpacked log-probs differ: chosen of pair 0: -1\.4750 against -1\.3750, .* over 2 tokens$/,
      ),
    });
    expect(trainer.batches).toHaveLength(0);
  });

  it('hands adapters out, then merges them', async () => {
    const { engine, trainer } = fakeTrainerEngine();
    await trainPreference(engine, makeTrees(1), { lora: { rank: 4 } }, { adapterDirectory: 'out/adapter' });
    expect(trainer.calls.slice(-3)).toEqual(['saveAdapter out/adapter', 'mergeAdapter', 'dispose']);
    expect(trainer.options?.lora).toMatchObject({ rank: 4, alpha: 8 });
  });

  it('stops at a loss that is not finite, takes no step and frees the trainer', async () => {
    const { engine, trainer } = fakeTrainerEngine(Number.NaN);
    await expect(trainPreference(engine, makeTrees(1), { epochs: 3 })).rejects.toMatchObject({
      code: 'NUMERICAL',
      message: 'step 2, micro-batch 1: expected a finite loss, got NaN',
    });
    expect(trainer.calls.slice(-2)).toEqual(['zeroGrad', 'dispose']);
    expect(trainer.rates).toHaveLength(1);
  });

  it('stops between steps when it is aborted', async () => {
    const { engine, trainer } = fakeTrainerEngine();
    const controller = new AbortController();
    const run = trainPreference(
      engine,
      makeTrees(4),
      { batchSize: 2 },
      { signal: controller.signal, onStep: () => controller.abort() },
    );
    await expect(run).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(trainer.rates).toHaveLength(1);
    expect(trainer.calls.at(-1)).toBe('dispose');
  });

  it.each([
    [{ beta: -1 }, 'beta: expected a number above 0, got -1'],
    [{ beta: 0 }, 'beta: expected a number above 0, got 0'],
    [{ batchSize: 0 }, 'batch size: expected a whole number of at least 1, got 0'],
    ...(['sigmoid', 'robust', 'simpo', 'hinge'] as const).map(
      (loss) =>
        [{ loss, labelSmoothing: 0.5 }, 'label smoothing: expected a number from 0 to below 0.5, got 0.5'] as const,
    ),
    [{ labelSmoothing: -0.1 }, 'label smoothing: expected a number from 0 to below 0.5, got -0.1'],
    [{ labelSmoothing: Number.NaN }, 'label smoothing: expected a number from 0 to below 0.5, got NaN'],
    [{ mix: 1.1 }, 'mix: expected a number from 0 to 1, got 1.1'],
    [{ mix: Number.NaN }, 'mix: expected a number from 0 to 1, got NaN'],
    [{ loss: 'simpo', gamma: -1 }, 'gamma: expected a number of at least 0, got -1'],
    [{ loss: 'sigmoid', gamma: 0.5 }, 'gamma: expected the loss simpo beside it, got sigmoid'],
    [{ loss: 'orpo' }, 'loss: expected one of sigmoid, ipo, hinge, robust, sigmoid_norm, simpo, got orpo'],
    [{ lora: { rank: 2, targets: ['embed'] } }, 'lora targets: expected one of q_proj'],
    [{ learningRate: Number.NaN }, 'learning rate: expected a number of at least 0, got NaN'],
  ] as const)('refuses %j', async (options, message) => {
    await expect(train(makeTrees(1), options as Parameters<typeof trainPreference>[2])).rejects.toThrow(message);
  });

  it('refuses trees without a single pair', async () => {
    await expect(train([{ promptIds: [1], steps: [{ chosenIds: [2], rejected: [] }] }], {})).rejects.toThrow(
      'at least one pair',
    );
  });
});
