// Losses written in TypeScript against torch autograd: the formulas of the built-in losses, written again as a user would,
// have the goldens' gradients. And what a trainer does with a forward that gets no backward.

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Engine } from '../../src/native/engine.js';
import type { Trainer } from '../../src/native/trainer.js';
import { Dual, pairwise } from '../../src/training/losses/dual.js';
import type { PairGradients, PairLoss } from '../../src/training/losses/pair-loss.js';
import { lossStep } from '../../src/training/losses/step.js';
import { trainPreference } from '../../src/training/preference.js';
import type { PreferenceTree, StepMetrics } from '../../src/training/types.js';
import {
  type GoldenTree,
  modelFolder,
  type PreferenceGolden,
  type PreferenceSettings,
  readGolden,
  scratchFolder,
  worst,
} from '../helpers/goldens.js';
import { HUGE_RATE, recoverGradient, summaryErrors, tensorErrors, worstEntry } from '../helpers/gradients.js';
import { expectNoLiveHandles } from '../helpers/live-handles.js';
import { packedBatch, unpack } from '../helpers/preference-batch.js';
import { readModel } from '../helpers/safetensors.js';
import { withoutTimes } from '../helpers/without-times.js';

expectNoLiveHandles();
const { single } = readGolden<{ single: PreferenceGolden[] }>('dpo.json');
const scratch = scratchFolder();
let folders = 0;

/** The built-in losses as formulas. */
function formula({ loss, beta, label_smoothing: e, gamma = 0 }: PreferenceSettings): PairLoss {
  if (loss === 'simpo') {
    return pairwise(
      ({ chosen, rejected, chosenLength, rejectedLength }) => {
        const margin = chosen.div(chosenLength).sub(rejected.div(rejectedLength)).mul(beta).sub(gamma);
        return margin
          .negLogSigmoid()
          .mul(1 - e)
          .add(margin.neg().negLogSigmoid().mul(e));
      },
      { reference: false },
    );
  }
  return pairwise((pair) => {
    const margin = pair.margin(beta);
    const perToken = pair.chosenRatio.div(pair.chosenLength).sub(pair.rejectedRatio.div(pair.rejectedLength));
    switch (loss) {
      case 'sigmoid':
        return margin
          .negLogSigmoid()
          .mul(1 - e)
          .add(margin.neg().negLogSigmoid().mul(e));
      case 'robust':
        return margin
          .negLogSigmoid()
          .mul(1 - e)
          .sub(margin.neg().negLogSigmoid().mul(e))
          .div(1 - 2 * e);
      case 'hinge':
        return Dual.of(1).sub(margin).relu();
      case 'sigmoid_norm':
        return perToken.mul(beta).negLogSigmoid();
      case 'ipo':
        return perToken.sub(1 / (2 * beta)).mul(perToken.sub(1 / (2 * beta)));
    }
  });
}

/** DPO without `pairwise`: gradients by hand. */
const byHand =
  (beta: number): PairLoss =>
  (pairs) => {
    const out: PairGradients = {
      loss: pairs.chosen.map((chosen, p) => {
        const ratios = chosen - pairs.referenceChosen[p]! - (pairs.rejected[p]! - pairs.referenceRejected[p]!);
        return Math.log1p(Math.exp(-beta * ratios));
      }),
      gradChosen: new Float64Array(pairs.chosen.length),
      gradRejected: new Float64Array(pairs.chosen.length),
    };
    for (const [p, loss] of out.loss.entries()) {
      out.gradChosen[p] = -beta * (1 - Math.exp(-loss));
      out.gradRejected[p] = -out.gradChosen[p]!;
    }
    return out;
  };

async function withTrainer<T>(model: string, use: (trainer: Trainer, engine: Engine) => Promise<T>): Promise<T> {
  const engine = await Engine.load({ directory: modelFolder(model), device: 'cpu', dtype: 'float32' });
  const trainer = await engine.createTrainer({ optimizer: 'sgd' });
  try {
    return await use(trainer, engine);
  } finally {
    await trainer.dispose();
    await engine.dispose();
  }
}

/** One SGD step of `loss`: the result, and the gradient it took. */
const gradientOf = (golden: PreferenceGolden, loss: PairLoss) =>
  withTrainer(golden.model, async (trainer, engine) => {
    const named = unpack(golden.trees).pairs.map((_, index) => ({ index, step: 0 }));
    const batch = packedBatch(golden.trees, golden.options, golden.reference!);
    const result = await lossStep(loss).accumulate(trainer, batch, named);
    await trainer.apply(HUGE_RATE);
    const saved = join(scratch, `saved-${folders++}`);
    await engine.save(saved);
    return { result, gradient: recoverGradient(readModel(modelFolder(golden.model)), readModel(saved), HUGE_RATE) };
  });

const perturbed = single.filter(({ model, reference }) => model === 'llama' && reference);

describe.each(perturbed)('$name as a formula', (golden) => {
  it('has the loss, the log-probs and the gradient of autograd', async () => {
    const { result, gradient } = await gradientOf(golden, formula(golden.options));
    const { loss } = golden.metrics;
    expect(Math.abs(result.loss - loss!) / Math.max(1, Math.abs(loss!))).toBeLessThanOrEqual(1e-5);
    expect(worst(result.completionLogprobs, golden.completion_logprobs)).toBeLessThanOrEqual(2e-4);
    const found = worstEntry(summaryErrors(gradient, golden.gradient));
    expect(found.error, found.name).toBeLessThanOrEqual(1e-5);
  });
});

it('gradients by hand train like those of a formula', async () => {
  const golden = perturbed.find(({ options }) => options.loss === 'sigmoid' && options.label_smoothing === 0)!;
  const found = await gradientOf(golden, byHand(golden.options.beta));
  const wanted = await gradientOf(golden, formula(golden.options));
  const error = worstEntry(tensorErrors(found.gradient, wanted.gradient));
  expect(error.error, error.name).toBeLessThanOrEqual(1e-6);
});

const treesOf = (trees: GoldenTree[]): PreferenceTree[] =>
  trees.map(({ prompt_ids, steps }) => ({
    promptIds: prompt_ids,
    steps: steps.map(({ chosen_ids, rejected }) => ({ chosenIds: chosen_ids, rejected })),
  }));

it.each([
  ['all weights', {}],
  ['adapters', { lora: { rank: 4 } }],
])('a whole training of %s, in micro-batches, is that of the built-in loss', async (_name, options) => {
  const golden = single.find(({ model, name }) => model === 'llama' && name === 'tree records')!;
  const train = async (loss: PairLoss | 'sigmoid') => {
    const engine = await Engine.load({ directory: modelFolder('llama'), device: 'cpu', dtype: 'float32' });
    try {
      const steps: StepMetrics[] = [];
      const shared = { beta: 0.3, sftWeight: 0.2, batchSize: 4, epochs: 3, learningRate: 1e-3, microBatchTokens: 60 };
      await trainPreference(
        engine,
        treesOf(golden.trees),
        { ...shared, ...options, loss },
        { onStep: (metrics) => void steps.push(metrics) },
      );
      return steps;
    } finally {
      await engine.dispose();
    }
  };
  const own = await train(pairwise((pair) => pair.margin(0.3).negLogSigmoid()));
  const builtIn = await train('sigmoid');
  expect(own.length).toBeGreaterThan(5);
  for (const [i, metrics] of builtIn.entries()) {
    for (const [key, value] of Object.entries(withoutTimes(metrics))) {
      expect(Math.abs(own[i]![key]! - value) / Math.max(1, Math.abs(value)), `${key} of step ${i}`).toBeLessThan(1e-4);
    }
  }
  expect(Math.abs(builtIn.at(-1)!['rewards/margins']!)).toBeGreaterThan(0.1);
});

describe('a forward', () => {
  const golden = perturbed[0]!;
  const batch = packedBatch(golden.trees, golden.options, golden.reference!);
  const completions = golden.reference!.length;
  const ones = () => new Float64Array(completions).fill(1);
  const none = { code: 'INVALID_ARGUMENT', message: 'backward: expected a forward just before it, there was none' };

  it('gives float64 log-probs and lengths of every completion', () =>
    withTrainer('llama', async (trainer) => {
      const { logprobs, lengths, computedTokens } = await trainer.forwardPreference(batch);
      expect(logprobs).toEqual(await trainer.referenceLogprobs(batch));
      expect(worst(logprobs, golden.completion_logprobs)).toBeLessThanOrEqual(2e-4);
      expect([...lengths]).toEqual(unpack(golden.trees).completions.map(({ ids }) => ids.length));
      expect(computedTokens).toBe(batch.forest.tokens.length);
      expect([...logprobs].some((value) => value !== Math.fround(value))).toBe(true);
    }));

  it.each<[string, (trainer: Trainer) => Promise<unknown>]>([
    ['accumulatePreference', (trainer) => trainer.accumulatePreference({ ...batch, loss: 'sigmoid' })],
    ['apply', (trainer) => trainer.apply(0)],
    ['zeroGrad', (trainer) => trainer.zeroGrad()],
    ['its own backward', (trainer) => trainer.backwardPreference(ones())],
    [
      'a refused forward',
      (trainer) => trainer.forwardPreference({ ...batch, completionSegments: Int32Array.of(1) }).catch(() => 0),
    ],
  ])('is given up by %s', (_name, next) =>
    withTrainer('llama', async (trainer) => {
      await trainer.forwardPreference(batch);
      await next(trainer);
      await expect(trainer.backwardPreference(ones())).rejects.toMatchObject(none);
      expect(await trainer.apply(0)).toBe(0);
    }),
  );

  it('that is followed by disposal leaves an engine that another trainer trains', async () => {
    const engine = await Engine.load({ directory: modelFolder('llama'), device: 'cpu', dtype: 'float32' });
    try {
      const first = await engine.createTrainer({ optimizer: 'sgd' });
      await first.forwardPreference(batch);
      await first.dispose();
      const second = await engine.createTrainer({ optimizer: 'sgd' });
      await expect(second.backwardPreference(ones())).rejects.toMatchObject(none);
      await second.forwardPreference(batch);
      await second.backwardPreference(ones());
      expect(await second.apply(0)).toBeGreaterThan(0);
      await second.dispose();
    } finally {
      await engine.dispose();
    }
  });

  it('refuses gradients that do not fit, and drops the step', () =>
    withTrainer('llama', async (trainer) => {
      const refused = async (grad: unknown, error: object) => {
        await trainer.accumulatePreference({ ...batch, loss: 'sigmoid' });
        await trainer.forwardPreference(batch);
        await expect(trainer.backwardPreference(grad as Float64Array)).rejects.toMatchObject(error);
        expect(await trainer.apply(0)).toBe(0);
      };
      await refused(new Float64Array(2), {
        code: 'INVALID_ARGUMENT',
        message: `grad: expected one number per completion of the forward (${completions}), got 2`,
      });
      await refused(ones().fill(Number.NaN, 1, 2), {
        code: 'NUMERICAL',
        message: 'grad[1]: expected a finite number, got nan',
      });
      await refused(new Float32Array(completions), {
        code: 'INVALID_ARGUMENT',
        message: 'grad: expected a Float64Array, got another typed array',
      });
    }));

  it('and its backward stop at an aborted signal, and the step is dropped', () =>
    withTrainer('llama', async (trainer) => {
      const signal = AbortSignal.abort();
      await trainer.accumulatePreference({ ...batch, loss: 'sigmoid' });
      await expect(trainer.forwardPreference(batch, signal)).rejects.toMatchObject({ code: 'CANCELLED' });
      expect(await trainer.apply(0)).toBe(0);
      await trainer.forwardPreference(batch);
      await expect(trainer.backwardPreference(ones(), signal)).rejects.toMatchObject({ code: 'CANCELLED' });
      expect(await trainer.apply(0)).toBe(0);
      await expect(trainer.backwardPreference(ones())).rejects.toMatchObject(none);
    }));
});
