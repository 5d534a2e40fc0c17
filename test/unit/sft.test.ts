import { describe, expect, it } from 'vitest';
import { packExamples, scoredTokens, sftBatch, trainSft } from '../../src/training/sft.js';
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

it('makes each example a chain and skips empty segments', () => {
  const batch = sftBatch(
    [
      {
        segments: [
          { ids: [1], weight: 0 },
          { ids: [], weight: 1 },
          { ids: [2, 3], weight: 1 },
        ],
      },
      example([4], [5]),
    ],
    3,
  );
  expect([...batch.forest.parents]).toEqual([-1, 0, -1, 2]);
  expect([...batch.segmentWeight]).toEqual([0, 1, 0, 1]);
  expect([...batch.forest.tokens]).toEqual([1, 2, 3, 4, 5]);
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

it('packs up to the budget and gives a long example its own batch', () => {
  const examples = [2, 3, 9, 1, 1].map((n) =>
    example(
      [1],
      Array.from({ length: n }, () => 2),
    ),
  );
  expect(packExamples(examples, 7).map((batch) => batch.length)).toEqual([2, 1, 2]);
});
