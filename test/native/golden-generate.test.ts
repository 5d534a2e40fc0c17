// Greedy generation of every family against transformers' generate: the same ids.

import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ForestBuilder } from '../../src/data/forest.js';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import type { GenerateResult } from '../../src/native/types.js';
import { readLines, succeed, writeLines } from '../helpers/command.js';
import { type GenerateGolden, MODELS, modelFolder, readGolden, scratchFolder, worst } from '../helpers/goldens.js';

const goldens = readGolden<GenerateGolden[]>('generate.json');
const scratch = scratchFolder();

function request(prompts: number[][]) {
  const builder = new ForestBuilder();
  const roots = prompts.map((ids) => builder.root(ids));
  const { forest, segments } = builder.build();
  return {
    forest,
    nodes: Int32Array.from(roots, (root) => segments[root]!),
    treeKeys: BigUint64Array.from(prompts, (_, index) => BigInt(index)),
    steps: new Int32Array(prompts.length),
    temperature: 0,
  };
}

const row = ({ tokens, offsets }: GenerateResult, index: number) => [
  ...tokens.subarray(offsets[index]!, offsets[index + 1]!),
];

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

describe.each(MODELS)('%s', (name) => {
  const records = goldens.filter(({ model }) => model === name);

  it('chooses the ids of transformers, one prompt at a time', async () => {
    const engine = await Engine.load({ directory: modelFolder(name), device: 'cpu', dtype: 'float32' });
    try {
      for (const golden of records) {
        const result = await engine.generate({
          ...request([golden.prompt_ids]),
          eosIds: Int32Array.from(golden.eos_ids),
          minNewTokens: golden.min_new_tokens,
          maxNewTokens: golden.max_new_tokens,
        });
        expect(row(result, 0), golden.id).toEqual(golden.ids);
        expect(worst(result.logprobs, golden.logprobs), golden.id).toBeLessThanOrEqual(1e-4);
        expect(result.finish[0], golden.id).toBe(golden.finish === 'eos' ? 1 : 2);
      }
    } finally {
      await engine.dispose();
    }
  });

  it('chooses the same ids in one batch of prompts of different lengths', async () => {
    const engine = await Engine.load({ directory: modelFolder(name), device: 'cpu', dtype: 'float32' });
    try {
      // Without an EOS a greedy path does not depend on where it is cut off.
      const whole = records.filter(({ id }) => id.endsWith('-length'));
      const result = await engine.generate({
        ...request(whole.map(({ prompt_ids }) => prompt_ids)),
        samples: 2,
        eosIds: new Int32Array(0),
        maxNewTokens: Math.max(...whole.map(({ max_new_tokens }) => max_new_tokens)),
      });
      for (const [index, golden] of whole.entries()) {
        for (const sample of [0, 1]) {
          expect(row(result, 2 * index + sample).slice(0, golden.ids.length), golden.id).toEqual(golden.ids);
        }
      }
    } finally {
      await engine.dispose();
    }
  });
});

it('takes EOS ids from generation_config.json, else config.json, in the command', async () => {
  for (const name of ['llama', 'qwen2']) {
    const records = goldens.filter(({ model, id }) => model === name && id.endsWith('-length'));
    const eos = name === 'llama' ? [1] : [3, 7];
    const output = join(scratch, `${name}.jsonl`);
    const input = writeLines(
      scratch,
      records.map(({ id, prompt_ids }) => ({ id, prompt_ids })),
    );
    const most = Math.max(...records.map(({ max_new_tokens }) => max_new_tokens));
    const model = modelFolder(name);
    await succeed('generate', { model, input, output, device: 'cpu', temperature: 0, 'max-new-tokens': most });
    const lines = readLines<{ id: string; outputs: { ids: number[]; logprob: number; finish: string }[] }>(output);
    expect(lines.map(({ id }) => id)).toEqual(records.map(({ id }) => id));
    for (const [index, { outputs }] of lines.entries()) {
      const golden = records[index]!.ids;
      const stop = golden.findIndex((token) => eos.includes(token));
      const known = stop < 0 ? golden : golden.slice(0, stop + 1);
      expect(outputs).toHaveLength(1);
      expect(outputs[0]!.ids.slice(0, known.length)).toEqual(known);
      if (stop >= 0) expect(outputs[0]).toMatchObject({ finish: 'eos', ids: known });
    }
  }
});
