// What may be drawn under temperature, top-k, top-p and min-p, and with which log-probs, against transformers' logits
// warpers.

import { afterAll, expect, it } from 'vitest';
import { ForestBuilder } from '../../src/data/forest.js';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import { modelFolder, readGolden, type SamplingGolden } from '../helpers/goldens.js';

const goldens = readGolden<SamplingGolden[]>('sampling.json');
const SAMPLES = 400;

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

/** Next tokens after the prompt, a sample each. */
function drawn(engine: Engine, prompt: number[], { temperature, ...cut }: SamplingGolden['distributions'][number]) {
  const builder = new ForestBuilder();
  const root = builder.root(prompt);
  const { forest, segments } = builder.build();
  return engine.generate({
    forest,
    nodes: Int32Array.of(segments[root]!),
    samples: SAMPLES,
    seed: 11,
    treeKeys: BigUint64Array.of(1n),
    steps: new Int32Array(1),
    temperature,
    topK: cut.top_k,
    topP: cut.top_p,
    minP: cut.min_p,
    maxNewTokens: 1,
    eosIds: new Int32Array(0),
  });
}

const logSumExp = (values: number[]) => Math.log(values.reduce((sum, value) => sum + Math.exp(value), 0));

it.each(goldens)(
  '$model draws from what transformers would',
  async ({ model, prompt_ids, logprobs, distributions }) => {
    const engine = await Engine.load({ directory: modelFolder(model), device: 'cpu', dtype: 'float32' });
    try {
      for (const golden of distributions) {
        const whole = logSumExp(logprobs.map((value) => value / golden.temperature));
        const result = await drawn(engine, prompt_ids, golden);
        expect(result.tokens).toHaveLength(SAMPLES);
        for (const [row, id] of result.tokens.entries()) {
          const left = golden.logprobs[id];
          expect(left, `id ${id}`).not.toBeNull();
          expect(result.logprobs[row]).toBeCloseTo(logprobs[id]!, 4);
          expect(result.samplingLogprobs[row]).toBeCloseTo(left!, 4);
          // Of the kept ids' log-probs those before the cut are less by the log of the kept mass.
          expect(result.logKept[row]).toBeCloseTo(logprobs[id]! / golden.temperature - whole - left!, 4);
        }
        // None that is left is withheld: one this likely is missed by chance once in 200,000 times.
        const likely = golden.logprobs.flatMap((value, id) => (value !== null && value > Math.log(0.03) ? [id] : []));
        expect([...new Set(result.tokens)]).toEqual(expect.arrayContaining(likely));
      }
    } finally {
      await engine.dispose();
    }
  },
);
