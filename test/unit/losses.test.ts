// Losses of the user's own: what the trainer is asked for, how they are checked, and what of them is refused.

import { describe, expect, it } from 'vitest';
import type { PreferenceBatch } from '../../src/native/types.js';
import { pairwise } from '../../src/training/losses/dual.js';
import type { PairGradients, PairLoss, PairVectors } from '../../src/training/losses/pair-loss.js';
import { lossStep } from '../../src/training/losses/step.js';
import { trainPreference } from '../../src/training/preference.js';
import type { PreferenceOptions, PreferenceTree, StepMetrics } from '../../src/training/types.js';
import { cost, fakeTrainerEngine } from '../helpers/fake-trainer.js';
import { withoutTimes } from '../helpers/without-times.js';

const sum = (ids: number[]): number => ids.reduce((total, id) => total + cost(id), 0);
const dpo = (beta: number): PairLoss => pairwise((pair) => pair.margin(beta).negLogSigmoid());

const makeTrees = (count: number): PreferenceTree[] =>
  Array.from({ length: count }, (_, i) => ({
    promptIds: [i, 1, 2],
    steps: [
      { chosenIds: [3, 4], rejected: [{ ids: [15, 23, 7], weight: 0.5 }] },
      { chosenIds: [5], rejected: [{ ids: [31, 6] }] },
    ],
  }));

async function train(options: PreferenceOptions, trees = makeTrees(2)) {
  const { engine, trainer } = fakeTrainerEngine();
  const steps: StepMetrics[] = [];
  const onStep = (metrics: StepMetrics): void => void steps.push(metrics);
  const summary = await trainPreference(engine, trees, { batchSize: 4, shuffle: false, ...options }, { onStep });
  return { trainer, steps, summary };
}

const refusal = async (loss: PairLoss, options: PreferenceOptions = {}) => {
  const { engine, trainer } = fakeTrainerEngine();
  const error = await trainPreference(engine, makeTrees(2), { batchSize: 4, shuffle: false, ...options, loss }).then(
    () => undefined,
    (thrown: unknown) => thrown as Error & { code?: string },
  );
  return { code: error?.code, message: error?.message, calls: trainer.calls };
};

/** DPO with other numbers in one of its vectors. */
const altered =
  (key: keyof PairGradients, value: (was: number, p: number, pairs: PairVectors) => number): PairLoss =>
  async (pairs) => {
    const result = await dpo(0.1)(pairs);
    return { ...result, [key]: result[key].map((was, p) => value(was, p, pairs)) };
  };

/** In the micro-batch alone, not in the copies that the check makes of its pairs. */
const inBatch =
  (at: number, value: number) =>
  (was: number, p: number, pairs: PairVectors): number =>
    pairs.chosen.length === 4 && p === at ? value : was;

describe('a loss of your own', () => {
  it('trains by forward and backward, with the metrics of the built-in loss it equals', async () => {
    const own = await train({ loss: dpo(0.1), beta: 0.1, epochs: 2 });
    const builtIn = await train({ loss: 'sigmoid', beta: 0.1, epochs: 2 });
    expect(own.trainer.calls.join(' ')).toBe(
      'reference reference forward backward apply forward backward apply dispose',
    );
    for (const [i, metrics] of builtIn.steps.entries()) {
      for (const [key, value] of Object.entries(withoutTimes(metrics)))
        expect(own.steps[i]?.[key], key).toBeCloseTo(value, 6);
    }
  });

  it("gives backward each completion's share of the mean loss and of the NLL term", async () => {
    const { trainer } = await train({ loss: dpo(0.2), sftWeight: 0.3, epochs: 1 }, makeTrees(1));
    // One tree: chosen steps of 2 and 1 tokens, pairs of weight 0.5 and 1; at the start each slope is beta / 2.
    const slope = 0.2 / 2 / 2;
    const nll = 0.3 / 3;
    expect(trainer.grads).toHaveLength(1);
    // Which completion stands where is the packing's choice.
    const close = (values: Float64Array): number[] => [...values].map((value) => Number(value.toFixed(12))).sort();
    expect(close(trainer.grads[0] as Float64Array)).toEqual(
      close(Float64Array.of(-0.5 * slope - 0.5 * nll, 0.5 * slope, -slope - nll, slope)),
    );
  });

  it('sees policy, reference, lengths and steps, pair by pair in the order of the data', async () => {
    const seen: PairVectors[] = [];
    const loss: PairLoss = (pairs) => {
      seen.push(pairs);
      return dpo(1)(pairs);
    };
    await train({ loss, epochs: 2 });
    const [first, , second] = seen as [PairVectors, PairVectors, PairVectors]; // the second call is the check's
    expect([...first.step]).toEqual([0, 1, 0, 1]);
    expect([...first.chosenLength]).toEqual([2, 1, 2, 1]);
    expect([...first.rejectedLength]).toEqual([3, 2, 3, 2]);
    expect(first.chosen).toEqual(first.referenceChosen);
    expect([...second.chosen]).toEqual([sum([3, 4]), sum([5]), sum([3, 4]), sum([5])].map((value) => -value / 2));
    expect([...second.referenceRejected]).toEqual([...first.rejected]);
    expect(seen).toHaveLength(3);
  });

  it('is not given a reference where it says that it has none, and none is computed', async () => {
    const seen: PairVectors[] = [];
    const formula = pairwise((pair) => pair.chosen.sub(pair.rejected).negLogSigmoid(), { reference: false });
    const loss: PairLoss = Object.assign(
      (pairs: PairVectors) => {
        seen.push(pairs);
        return formula(pairs);
      },
      { reference: false },
    );
    const { trainer, summary, steps } = await train({ loss, beta: 1 });
    // The two are the check of the packing, on the forest and on chains.
    expect(trainer.calls).toEqual(['reference', 'reference', 'forward', 'backward', 'apply', 'dispose']);
    expect(summary.referenceTokens).toBe(0);
    expect(seen[0]?.referenceChosen).toEqual(new Float64Array(4));
    expect(steps[0]?.['rewards/chosen']).toBeCloseTo(-(sum([3, 4]) + sum([5])) / 2, 12);
  });

  it('may be asynchronous, and counts once a pair in however many micro-batches', async () => {
    const slow: PairLoss = async (pairs) => {
      await new Promise((resolve) => setImmediate(resolve));
      return dpo(0.1)(pairs);
    };
    const whole = await train({ loss: slow });
    const cut = await train({ loss: slow, microBatchTokens: 1 });
    expect(cut.trainer.calls.filter((call) => call === 'forward')).toHaveLength(4);
    expect(cut.steps[0]?.loss).toBeCloseTo(whole.steps[0]?.loss as number, 12);
  });

  it('mixes both orders of a pair as the core does', async () => {
    const trees: PreferenceTree[] = [
      { promptIds: [1], steps: [{ chosenIds: [3, 4], rejected: [{ ids: [15, 23, 7], mix: 0.25 }] }] },
    ];
    // Not odd in the margin, so that the orders differ: IPO's (d - 5)^2 with d the difference of the log-ratios.
    const loss = pairwise((pair) => {
      const error = pair.margin(1).sub(5);
      return error.mul(error);
    });
    const { trainer, steps } = await train({ loss, epochs: 2 }, trees);
    const d = (sum([3, 4]) - sum([15, 23, 7])) / 2;
    expect(steps[1]?.loss).toBeCloseTo(0.25 * (d - 5) ** 2 + 0.75 * (-d - 5) ** 2, 12);
    const slope = 0.25 * 2 * (d - 5) - 0.75 * 2 * (-d - 5);
    const [chosen, rejected] = trainer.grads[1] as Float64Array; // one tree of two leaves, chosen inserted first
    expect(chosen).toBeCloseTo(slope, 12);
    expect(rejected).toBeCloseTo(-slope, 12);
  });

  it('runs one micro-batch at a time, also where the caller does not wait', async () => {
    const { trainer } = fakeTrainerEngine();
    const step = lossStep(async (pairs) => {
      await new Promise((resolve) => setImmediate(resolve));
      return dpo(0.1)(pairs);
    });
    const batch = {
      forest: { tokens: Int32Array.of(1, 2, 3), offsets: Int32Array.of(0, 1, 2, 3), parents: Int32Array.of(-1, 0, 0) },
      completionOffsets: Int32Array.of(0, 1, 2),
      completionSegments: Int32Array.of(1, 2),
      chosen: Int32Array.of(0),
      rejected: Int32Array.of(1),
      weight: Float32Array.of(1),
      reference: Float64Array.of(-1, -1),
      beta: 0.1,
      labelSmoothing: 0,
      gamma: 0,
      sftWeight: 0,
      pairNorm: 2,
      tokenNorm: 2,
    } satisfies Omit<PreferenceBatch, 'loss'>;
    const both = [0, 1].map((index) => step.accumulate(trainer, batch, [{ index, step: 0 }]));
    await Promise.all(both);
    expect(trainer.calls).toEqual(['forward', 'backward', 'forward', 'backward']);
  });
});

describe('the check of the first micro-batch', () => {
  it.each<[string, PairLoss, string]>([
    [
      'the wrong sign',
      altered('gradChosen', (was) => -was),
      'loss: gradient of chosen of pair 0 is 0.05, differences give -0.05',
    ],
    [
      'one pair, one side',
      altered('gradRejected', (was, p, pairs) => (pairs.rejectedLength[p] === 2 ? 0.06 : was)),
      'loss: gradient of rejected of pair 1 is 0.06, differences give 0.05',
    ],
    [
      'a factor that is forgotten',
      altered('gradChosen', (was, p, pairs) => was / (pairs.chosenLength[p] as number)),
      'loss: gradient of chosen of pair 0 is -0.025, differences give -0.05',
    ],
    [
      'a loss over the micro-batch',
      altered('loss', (was, _p, pairs) => was * pairs.chosen.length),
      'loss: expected the loss of pair 0 to depend on that pair alone, got 2.772588722239781 in its micro-batch and ',
    ],
  ])('refuses %s', async (_name, loss, message) => {
    const found = await refusal(loss);
    expect(found.code).toBe('INVALID_ARGUMENT');
    expect(found.message).toContain(message);
    expect(found.calls).toEqual(['reference', 'reference', 'forward', 'zeroGrad', 'dispose']);
  });

  it('takes either slope and those between at a kink, which a margin of 0 may be', async () => {
    for (const slope of [0, -0.3, -1]) {
      const perceptron: PairLoss = (pairs) => {
        const { loss, ...slopes } = pairwise((pair) => pair.margin(1).neg().relu())(pairs) as PairGradients;
        const atKink = (values: Float64Array, own: number): Float64Array =>
          values.map((value, p) => (loss[p] === 0 ? own : value));
        return {
          loss,
          gradChosen: atKink(slopes.gradChosen, slope),
          gradRejected: atKink(slopes.gradRejected, -slope),
        };
      };
      await expect(train({ loss: perceptron })).resolves.toBeDefined();
    }
    const outside: PairLoss = (pairs) => {
      const count = pairs.chosen.length;
      const { loss } = pairwise((pair) => pair.margin(1).neg().relu())(pairs) as PairGradients;
      return { loss, gradChosen: new Float64Array(count).fill(0.2), gradRejected: new Float64Array(count) };
    };
    expect((await refusal(outside)).message).toContain('gradient of chosen of pair 0 is 0.2, differences give -0.5');
  });

  it('looks at 16 pairs spread over the micro-batch, once', async () => {
    const sizes: number[] = [];
    const loss: PairLoss = (pairs) => {
      sizes.push(pairs.chosen.length);
      return dpo(0.1)(pairs);
    };
    await train({ loss, batchSize: 40, epochs: 2 }, makeTrees(20));
    expect(sizes).toEqual([40, 80, 40]);
  });
});

describe('what a loss gives', () => {
  it.each<[string, PairLoss, string, string]>([
    [
      'no vectors',
      () => ({}) as unknown as PairGradients,
      'INVALID_ARGUMENT',
      'loss: expected loss to be a Float64Array of 4, one number a pair, got undefined',
    ],
    ['nothing', () => undefined as unknown as PairGradients, 'INVALID_ARGUMENT', 'got undefined'],
    [
      'vectors of another length',
      (pairs) => ({ ...(dpo(1)(pairs) as PairGradients), gradRejected: new Float64Array(3) }),
      'INVALID_ARGUMENT',
      'loss: expected gradRejected to be a Float64Array of 4, one number a pair, got one of 3',
    ],
    [
      'NaN',
      altered('loss', inBatch(3, Number.NaN)),
      'NUMERICAL',
      'loss: expected a finite loss and finite gradients of pair 3, got NaN, -0.05, 0.05',
    ],
    [
      'an infinite gradient',
      altered('gradChosen', inBatch(2, Number.POSITIVE_INFINITY)),
      'NUMERICAL',
      'of pair 2, got 0.6931471805599453, Infinity, 0.05',
    ],
  ])('is refused: %s', async (_name, loss, code, message) => {
    const found = await refusal(loss);
    expect(found).toMatchObject({ code, message: expect.stringContaining(message) as string });
    expect(found.calls.slice(-2)).toEqual(['zeroGrad', 'dispose']);
    expect(found.calls).not.toContain('apply');
  });

  it('is what it throws, after the step was dropped', async () => {
    const found = await refusal(() => {
      throw new RangeError('my own');
    });
    expect(found.message).toBe('my own');
    expect(found.calls).toEqual(['reference', 'reference', 'forward', 'zeroGrad', 'dispose']);
  });
});
