import { describe, expect, it } from 'vitest';
import { costOf } from '../../src/training/packing/cost.js';
import { type ExampleBatch, packExamples, scoredTokens, trainSft } from '../../src/training/sft.js';
import type { SftExample, StepMetrics } from '../../src/training/types.js';
import { cost, fakeTrainerEngine } from '../helpers/fake-trainer.js';

const example = (prompt: number[], completion: number[], weight = 1): SftExample => ({
  segments: [
    { ids: prompt, weight: 0 },
    { ids: completion, weight },
  ],
});

describe('trainSft', () => {
  it('divides by the weighted tokens of the whole optimiser step, over all its micro-batches', async () => {
    const { engine, trainer } = fakeTrainerEngine();
    const steps: StepMetrics[] = [];
    const examples = [example([1, 2], [3, 4, 5]), example([1], [6], 2)];
    const options = { batchSize: 2, shuffle: false, microBatchTokens: 3 };
    const summary = await trainSft(engine, examples, options, { onStep: (metrics) => steps.push(metrics) });
    expect(trainer.sftBatches.map((batch) => batch.tokenNorm)).toEqual([5, 5]);
    expect(steps[0]?.loss).toBeCloseTo((cost(3) + cost(4) + cost(5) + 2 * cost(6)) / 5, 6);
    expect(summary).toMatchObject({ steps: 1, examples: 2, tokens: 7, computedTokens: 7 });
    expect(steps[0]).toMatchObject({ step: 1, epoch: 1, num_tokens: 7 });
  });

  it('takes every example once an epoch, in an order that depends on the seed', async () => {
    const examples = Array.from({ length: 10 }, (_, i) => example([i], [100 + i]));
    const order = async (seed: number): Promise<number[]> => {
      const { engine, trainer } = fakeTrainerEngine();
      await trainSft(engine, examples, { batchSize: 3, seed });
      return trainer.sftBatches.flatMap((batch) => [...batch.forest.tokens].filter((id) => id < 100));
    };
    const first = await order(1);
    expect([...first].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(await order(1)).toEqual(first);
    expect(await order(2)).not.toEqual(first);
  });

  it('refuses an example with nothing to train on', async () => {
    const { engine } = fakeTrainerEngine();
    await expect(trainSft(engine, [example([1], [])])).rejects.toThrow(
      'SFT example 0: expected at least one token to train on',
    );
    await expect(trainSft(engine, [])).rejects.toThrow('at least one example');
  });
});

describe('packExamples', () => {
  const exact = costOf({ hiddenSize: 64, device: 'cpu', dtype: 'float32' });

  it('makes a single example a chain and skips empty segments', () => {
    const segments = [
      { ids: [1], weight: 0 },
      { ids: [], weight: 1 },
      { ids: [2, 3], weight: 1 },
    ];
    const [batch] = packExamples([{ segments }, example([4], [5])], 100, exact);
    expect([...(batch?.forest.parents ?? [])]).toEqual([-1, 0, -1, 2]);
    expect([...(batch?.segmentWeight ?? [])]).toEqual([0, 1, 0, 1]);
    expect([...(batch?.forest.tokens ?? [])]).toEqual([1, 2, 3, 4, 5]);
    expect(batch?.shares).toBe(false);
  });

  it('counts a scored token that examples share once for each of them', () => {
    const prompt = Array.from({ length: 20 }, (_, i) => i + 10);
    const examples = [example(prompt, [1, 2, 3]), example(prompt, [1, 2, 4], 0.5), example(prompt, [5])];
    const [batch, ...rest] = packExamples(examples, 100, exact);
    expect(rest).toEqual([]);
    const { forest, segmentWeight } = batch as ExampleBatch;
    const weights = new Map<string, number>();
    for (const [s, weight] of segmentWeight.entries()) {
      weights.set(forest.tokens.subarray(forest.offsets[s], forest.offsets[s + 1]).join(), weight);
    }
    expect(weights).toEqual(
      new Map([
        [prompt.join(), 0],
        ['1,2', 1.5],
        ['3', 1],
        ['4', 0.5],
        ['5', 1],
      ]),
    );
  });

  it('cuts where the weight changes in the middle of what examples share', () => {
    const turns = (weights: [number, number]): SftExample => ({
      segments: [
        { ids: [1, 2, 3, 4, 5, 6, 7, 8], weight: 0 },
        { ids: [11, 12], weight: weights[0] },
        { ids: [13, 14], weight: weights[1] },
      ],
    });
    const [batch] = packExamples([turns([1, 0]), turns([0, 1])], 100, exact);
    expect(batch?.forest.tokens).toHaveLength(12);
    expect([...(batch?.segmentWeight ?? [])]).toEqual([0, 1, 1]);
  });

  it('keeps to the budget and gives a long example its own batch', () => {
    const examples = [2, 3, 9, 1, 1].map((n, i) =>
      example(
        [20 + i],
        Array.from({ length: n }, () => 2),
      ),
    );
    const tokens = packExamples(examples, 7, exact).map(({ forest }) => forest.tokens.length);
    expect(tokens.sort((a, b) => a - b)).toEqual([4, 7, 10]);
  });
});

it('has the loss of examples on their own, whatever they share', async () => {
  const prompt = Array.from({ length: 30 }, (_, i) => i);
  const examples = Array.from({ length: 12 }, (_, i) =>
    example(prompt.slice(0, 10 + (i % 4) * 5), [1, 2, i % 3, i], 1 + (i % 2)),
  );
  const train = async (sharing: 'auto' | 'on' | 'off') => {
    const { engine, trainer } = fakeTrainerEngine();
    const steps: StepMetrics[] = [];
    const summary = await trainSft(
      engine,
      examples,
      { batchSize: 6, sharing, microBatchTokens: 80 },
      { onStep: (metrics) => steps.push(metrics) },
    );
    for (const { forest } of trainer.sftBatches) expect(forest.tokens.length).toBeLessThanOrEqual(80);
    return { steps, summary };
  };
  const [auto, on, off] = [await train('auto'), await train('on'), await train('off')];
  for (const [i, { loss }] of off.steps.entries()) {
    expect(auto.steps[i]?.loss).toBeCloseTo(loss as number, 6);
    expect(on.steps[i]?.loss).toBeCloseTo(loss as number, 6);
  }
  expect(off.summary.computedTokens).toBe(off.summary.tokens);
  expect(auto.summary.computedTokens).toBeLessThan(0.5 * off.summary.tokens);
  expect(on.summary.computedTokens).toBeLessThanOrEqual(auto.summary.computedTokens);
  expect(auto.summary.packingCheck).toBeLessThan(1e-6);
});

it('leaves the first token of an example out: nothing predicts it', () => {
  expect(
    scoredTokens({
      segments: [
        { ids: [1, 2], weight: 1 },
        { ids: [3], weight: 0.5 },
      ],
    }),
  ).toBe(1.5);
});
