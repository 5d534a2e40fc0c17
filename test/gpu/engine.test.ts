// The engine on a CUDA device against the goldens that its CPU has to meet, and training and sampling on one model in turn.
// Skipped where the addon finds no CUDA device.

import { describe, expect, it } from 'vitest';
import { Engine } from '../../src/native/engine.js';
import { systemInfo } from '../../src/native/system.js';
import { type GenerateGolden, MODELS, modelFolder, readGolden, type ScoreGolden, worst } from '../helpers/goldens.js';
import { expectNoLiveHandles } from '../helpers/live-handles.js';

const generations = readGolden<GenerateGolden[]>('generate.json');
const scores = readGolden<ScoreGolden[]>('score.json');

/** Log-probs of a record's steps and candidates, each after all before it. */
async function scoreRecord({ tree }: Engine, { record }: ScoreGolden): Promise<number[]> {
  const nodes = [tree.open(record.prompt_ids)];
  const values: Float32Array[] = [];
  for (const ids of record.steps_ids) {
    values.push(...(await tree.score(nodes.at(-1)!, [ids])));
    nodes.push(tree.append(nodes.at(-1)!, ids));
  }
  if (record.candidates_ids.length > 0) values.push(...(await tree.score(nodes.at(-1)!, record.candidates_ids)));
  tree.release(nodes);
  return values.flatMap((part) => [...part]);
}

const load = (directory: string, dtype: 'float32' | 'bfloat16') => Engine.load({ directory, device: 'cuda', dtype });

expectNoLiveHandles();

describe.skipIf(!systemInfo().cudaAvailable).each(MODELS)('%s on CUDA', (name) => {
  it('chooses the ids of transformers, with its log-probs', async () => {
    await using engine = await load(modelFolder(name), 'float32');
    for (const golden of generations.filter(({ model }) => model === name)) {
      const root = engine.tree.open(golden.prompt_ids);
      const fork = await engine.tree.fork([root], {
        temperature: 0,
        eosIds: Int32Array.from(golden.eos_ids),
        minNewTokens: golden.min_new_tokens,
        maxNewTokens: golden.max_new_tokens,
      });
      expect([...fork.tokens], golden.id).toEqual(golden.ids);
      expect(worst(fork.logprobs, golden.logprobs), golden.id).toBeLessThanOrEqual(1e-4);
      engine.tree.release([root, fork.firstNode]);
    }
  });

  it('scores steps and candidates within 1e-4, in bfloat16 within 5 %', async () => {
    for (const [dtype, limit] of [
      ['float32', 1e-4],
      ['bfloat16', 0.05],
    ] as const) {
      await using engine = await load(modelFolder(name), dtype);
      for (const golden of scores.filter(({ model }) => model === name)) {
        const expected = [...golden.steps, ...golden.candidates].flat();
        const got = await scoreRecord(engine, golden);
        expect(got).toHaveLength(expected.length);
        const error = Math.max(...got.map((value, i) => Math.abs(value - expected[i]!) / (1 + Math.abs(expected[i]!))));
        expect(error, `${dtype} ${golden.record.id}`).toBeLessThanOrEqual(limit);
      }
    }
  });

  it('samples from the new weights after a training step', async () => {
    const record = scores.find(({ model }) => model === name)!;
    await using engine = await load(modelFolder(name), 'float32');
    const before = await scoreRecord(engine, record);
    const trainer = await engine.createTrainer({ optimizer: 'sgd' });
    try {
      const tokens = Int32Array.from(record.record.prompt_ids);
      const forest = { tokens, offsets: Int32Array.of(0, tokens.length), parents: Int32Array.of(-1) };
      await trainer.accumulateSft({ forest, segmentWeight: Float32Array.of(1), tokenNorm: tokens.length });
      await trainer.apply(0.1);
      const after = await scoreRecord(engine, record);
      expect(worst(after, before)).toBeGreaterThan(1e-4);
    } finally {
      await trainer.dispose();
    }
  });
});
