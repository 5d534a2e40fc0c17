// Saved models are the models that were loaded: same values under the same names, same config, same scores. They are
// written in the engine's dtype, here float32, which holds bfloat16 exactly.
// That transformers reads them too is checked by scripts/check-saved-model.py.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ForestBuilder } from '../../src/data/forest.js';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import { MODELS, modelFolder, scratchFolder } from '../helpers/goldens.js';
import { readModel } from '../helpers/safetensors.js';

const scratch = scratchFolder();

async function inspect(directory: string, save?: string) {
  const engine = await Engine.load({ directory, device: 'cpu', dtype: 'float32' });
  try {
    const builder = new ForestBuilder();
    const root = builder.root(Array.from({ length: 40 }, (_, i) => (7 * i + 3) % 97));
    builder.child(root, [5, 9, 2, 11]);
    const { forest } = builder.build();
    const { logprobs } = await engine.score(forest, Uint8Array.of(1, 1));
    if (save) await engine.save(save);
    return { logprobs: [...logprobs], hash: await engine.weightsHash(), info: engine.info };
  } finally {
    await engine.dispose();
  }
}

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

describe.each(MODELS)('%s', (name) => {
  it('is written back with the same values, names, config and scores', async () => {
    const saved = join(scratch, name);
    const before = await inspect(modelFolder(name), saved);
    const after = await inspect(saved);
    expect(after).toEqual(before);
    expect(before.logprobs.slice(1).every(Number.isFinite)).toBe(true);

    const [original, written] = [readModel(modelFolder(name)), readModel(saved)];
    expect([...written.keys()].sort()).toEqual([...original.keys()].sort());
    for (const [key, tensor] of original) {
      const other = written.get(key)!;
      expect(other.dtype, key).toBe('F32');
      expect(other.shape, key).toEqual(tensor.shape);
      expect(Buffer.compare(Buffer.from(other.values.buffer), Buffer.from(tensor.values.buffer)), key).toBe(0);
    }
    for (const file of ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']) {
      if (!existsSync(join(modelFolder(name), file))) continue;
      const read = (folder: string) => JSON.parse(readFileSync(join(folder, file), 'utf8')) as Record<string, unknown>;
      const wanted = read(modelFolder(name));
      for (const key of ['dtype', 'torch_dtype']) if (key in wanted) wanted[key] = 'float32';
      expect(read(saved), file).toEqual(wanted);
    }
  });
});
