// Reference log-probs kept tree by tree are the bits that another grouping of the trees would have computed.

import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import { trainPreference } from '../../src/training/preference.js';
import type { PreferenceTree, StepMetrics, TrainingHooks } from '../../src/training/types.js';
import { GOLDENS, modelFolder, scratchFolder } from '../helpers/goldens.js';
import { withoutTimes } from '../helpers/without-times.js';

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

const scratch = scratchFolder();
const ids = (length: number, start: number): number[] => Array.from({ length }, (_, i) => 3 + ((start + 7 * i) % 50));

/** Twelve trees of unequal lengths, with two steps each: micro-batches of four pairs cut none. */
const trees: PreferenceTree[] = Array.from({ length: 12 }, (_, t) => ({
  promptIds: ids(5 + 4 * (t % 5), t),
  steps: Array.from({ length: 2 }, (_, s) => ({
    chosenIds: ids(3 + t, t + s),
    rejected: [{ ids: ids(4 + s, t + s + 20) }],
  })),
}));

it.each([
  ['all weights', {}],
  ['an adapter that training starts from', { adapter: join(GOLDENS, 'adapters', 'qwen2') }],
])('of %s', async (name, options) => {
  const train = async (batchSize: number, hooks: TrainingHooks) => {
    const engine = await Engine.load({ directory: modelFolder('qwen2'), device: 'cpu', dtype: 'float32' });
    try {
      const steps: StepMetrics[] = [];
      const summary = await trainPreference(
        engine,
        trees,
        { batchSize, learningRate: 1e-3, ...options },
        { ...hooks, onStep: (metrics) => void steps.push(withoutTimes(metrics)) },
      );
      return { steps, summary };
    } finally {
      await engine.dispose();
    }
  };
  const referenceCache = { directory: join(scratch, name), machine: 'here' };
  const cold = await train(24, { referenceCache });
  const warm = await train(4, { referenceCache });
  const none = await train(4, {});
  expect(cold.summary.cachedReferenceTokens).toBe(0);
  expect(warm.summary).toMatchObject({ referenceTokens: 0, cachedReferenceTokens: none.summary.referenceTokens });
  expect(warm.steps).toEqual(none.steps);
  expect(warm.steps.length).toBeGreaterThan(5);
});
