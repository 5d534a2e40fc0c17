import { describe, expect, it } from 'vitest';
import { scheduleFactor, warmupSteps } from '../../src/training/schedule.js';
import { epochOrder } from '../../src/training/shuffle.js';

describe('scheduleFactor', () => {
  it.each(['constant', 'linear', 'cosine'] as const)(
    '%s is 1 at step 0 without warm-up, whatever the total',
    (kind) => {
      for (const total of [1, 2, 100]) expect(scheduleFactor(kind, 0, total, 0)).toBe(1);
    },
  );

  // transformers.get_scheduler(name, optimizer with lr 1, num_warmup_steps=2, num_training_steps=6), lr at each step.
  it.each([
    ['constant', [0, 0.5, 1, 1, 1, 1]],
    ['linear', [0, 0.5, 1, 0.75, 0.5, 0.25]],
    ['cosine', [0, 0.5, 1, 0.8535533905932737, 0.5, 0.14644660940672627]],
  ] as const)('%s with warm-up equals transformers', (kind, expected) => {
    for (const [step, factor] of expected.entries()) expect(scheduleFactor(kind, step, 6, 2)).toBeCloseTo(factor, 12);
  });

  it('takes warm-up below 1 as a share of the steps, rounded up', () => {
    expect([0, 0.1, 0.5, 1, 7].map((warmup) => warmupSteps(warmup, 25))).toEqual([0, 3, 13, 1, 7]);
  });
});

describe('epochOrder', () => {
  it('is a permutation that depends on seed and epoch', () => {
    const order = epochOrder(50, 7, 0, true);
    expect([...order].sort((a, b) => a - b)).toEqual(epochOrder(50, 7, 0, false));
    expect(epochOrder(50, 7, 0, true)).toEqual(order);
    expect(epochOrder(50, 7, 1, true)).not.toEqual(order);
    expect(epochOrder(50, 8, 0, true)).not.toEqual(order);
  });

  it('puts every item first about equally often', () => {
    const first = [0, 0, 0, 0];
    for (let seed = 0; seed < 4000; seed++) {
      const item = epochOrder(4, seed, 0, true)[0] as number;
      first[item] = (first[item] as number) + 1;
    }
    // 1000 expected, standard deviation 27.
    for (const count of first) expect(Math.abs(count - 1000)).toBeLessThan(140);
  });
});
