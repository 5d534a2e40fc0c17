import { describe, expect, it } from 'vitest';
import type { TokenStatistics } from '../../src/native/types.js';
import { PreferenceMeter, TokenMeter } from '../../src/training/metrics.js';
import { trainPreference } from '../../src/training/preference.js';
import { trainSft } from '../../src/training/sft.js';
import type { PreferenceTree, StepMetrics } from '../../src/training/types.js';
import { fakeTrainerEngine } from '../helpers/fake-trainer.js';

const side = (logprob: number, reference: number) => ({ logprob, reference, tokens: 1 });

describe('PreferenceMeter', () => {
  it('means over all pairs, and over those of each step of a trajectory', () => {
    const meter = new PreferenceMeter(0.5);
    meter.addPair(side(-1, -3), side(-2, -2), 1);
    meter.addPair(side(-4, -3), side(-2, -2), 1);
    meter.addPair(side(-1, -2), side(-5, -1), 3);
    meter.addPair(side(-2, -2), side(-2, -2));
    expect(meter.metrics(4)).toEqual({
      'rewards/chosen': (1 - 0.5 + 0.5 + 0) / 4,
      'rewards/rejected': (0 + 0 - 2 + 0) / 4,
      'rewards/accuracies': 2 / 4,
      'rewards/margins': (1 - 0.5 + 2.5 + 0) / 4,
      'logps/chosen': -8 / 4,
      'logps/rejected': -11 / 4,
      'rewards/accuracies/step_1': 0.5,
      'rewards/accuracies/step_3': 1,
      'rewards/margins/step_1': 0.25,
      'rewards/margins/step_3': 2.5,
      'tree/token_ratio': 4,
    });
  });
});

describe('TokenMeter', () => {
  const batch = (own: Partial<TokenStatistics>): TokenStatistics => ({
    ...{ correct: 0, entropy: 0, logitsChosen: 0, logitsRejected: 0 },
    ...{ chosenTokens: 0, rejectedTokens: 0, sideTokens: 0 },
    ...own,
  });

  it('means over the tokens of all micro-batches, not over their means', () => {
    const meter = new TokenMeter();
    meter.add(batch({ correct: 1, chosenTokens: 1, logitsChosen: 6, sideTokens: 3, entropy: 3, rejectedTokens: 2 }));
    meter.add(
      batch({
        correct: 1,
        chosenTokens: 3,
        logitsChosen: 2,
        sideTokens: 5,
        entropy: 9,
        logitsRejected: -8,
        rejectedTokens: 2,
      }),
    );
    expect(meter.metrics()).toEqual({
      'logits/chosen': 2,
      'logits/rejected': -2,
      entropy: 1.5,
      mean_token_accuracy: 0.5,
    });
  });

  it('has nothing to say where the trainer gave nothing, and no mean over no token', () => {
    expect(new TokenMeter().metrics()).toEqual({});
    const meter = new TokenMeter();
    meter.add(batch({ chosenTokens: 2, correct: 1, logitsChosen: 1 }));
    expect(meter.metrics()).toEqual({ 'logits/chosen': 0.5, mean_token_accuracy: 0.5 });
  });
});

describe('metrics of a training', () => {
  const trees: PreferenceTree[] = [
    {
      promptIds: [1, 2, 3, 4],
      steps: [
        { chosenIds: [3, 4], rejected: [{ ids: [15, 23, 7] }] },
        { chosenIds: [5], rejected: [{ ids: [31, 6] }, { ids: [7] }] },
      ],
    },
    { promptIds: [9], firstStep: 4, steps: [{ chosenIds: [3], rejected: [{ ids: [5] }] }] },
    { promptIds: [8], firstStep: null, steps: [{ chosenIds: [3], rejected: [{ ids: [5] }] }] },
  ];

  it('name the step of a trajectory where it is known, the token ratio, speeds and memory', async () => {
    const { engine } = fakeTrainerEngine();
    const steps: StepMetrics[] = [];
    await trainPreference(engine, trees, { batchSize: 8 }, { onStep: (metrics) => steps.push(metrics) });
    const [metrics] = steps as [StepMetrics];
    const names = Object.keys(metrics).filter((name) => name.startsWith('rewards/accuracies/'));
    expect(names).toEqual([1, 2, 5].map((k) => `rewards/accuracies/step_${k}`));
    // Two prompts of one token are not worth a tree.
    const unpacked = 2 * 4 + 5 + (2 * 6 + 3) + (2 * 6 + 2) + 2 * (2 + 2);
    expect(metrics['tree/token_ratio']).toBeCloseTo(unpacked / (4 + 5 + 1 + 2 + 1 + 4 + 4), 12);
    expect(metrics.pairs_per_second).toBeGreaterThan(0);
    expect(metrics.tokens_per_second).toBeGreaterThan(metrics.pairs_per_second as number);
    expect(metrics.peak_bytes).toBeGreaterThan(1e6);
    expect(metrics.entropy).toBeUndefined();
  });

  it("hold the trainer's statistics, where it has them", async () => {
    const statistics: TokenStatistics = {
      ...{ correct: 3, entropy: 8, logitsChosen: 6, logitsRejected: 1 },
      ...{ chosenTokens: 4, rejectedTokens: 2, sideTokens: 6 },
    };
    const { engine, trainer } = fakeTrainerEngine();
    const [pairs, examples] = [trainer.accumulatePreference, trainer.accumulateSft];
    trainer.accumulatePreference = async (batch) => ({ ...(await pairs(batch)), statistics });
    trainer.accumulateSft = async (batch) => ({ ...(await examples(batch)), statistics });
    const steps: StepMetrics[] = [];
    const onStep = (metrics: StepMetrics): void => void steps.push(metrics);
    await trainPreference(engine, trees, { batchSize: 8 }, { onStep });
    await trainSft(
      engine,
      [
        {
          segments: [
            { ids: [1], weight: 0 },
            { ids: [2, 3], weight: 1 },
          ],
        },
      ],
      {},
      { onStep },
    );
    expect(steps[0]).toMatchObject({
      'logits/chosen': 1.5,
      'logits/rejected': 0.5,
      entropy: 8 / 6,
      mean_token_accuracy: 0.75,
    });
    expect(steps[1]).toMatchObject({ entropy: 8 / 6, mean_token_accuracy: 0.75, 'tree/token_ratio': 1 });
    expect(steps[1]).not.toHaveProperty('logits/chosen');
    expect(steps[1]?.examples_per_second).toBeGreaterThan(0);
  });
});
