// LoRA adapters of PEFT: what PEFT made gives PEFT's log-probs, and goes out of a trainer as it came in. The command line
// takes them everywhere a model is loaded. That PEFT reads what was written is scripts/check-saved-model.py's to check.

import { cpSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ForestBuilder } from '../../src/data/forest.js';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import { trainPreference } from '../../src/training/preference.js';
import type { StepMetrics } from '../../src/training/types.js';
import { command, type Options, readLines, succeed, writeLines } from '../helpers/command.js';
import { GOLDENS, modelFolder, readGolden, type ScoreGolden, scratchFolder, worst } from '../helpers/goldens.js';
import { readModel, readTensors } from '../helpers/safetensors.js';

interface PeftGolden extends ScoreGolden {
  adapter: string;
}

const goldens = readGolden<PeftGolden[]>('peft.json');
const scratch = scratchFolder();
const adapterOf = (name: string): string => join(GOLDENS, 'adapters', name);
const trees = [
  { promptIds: [4, 5, 6], steps: [{ chosenIds: [7, 8], rejected: [{ ids: [9, 10] }, { ids: [7, 9] }] }] },
  { promptIds: [11, 12], steps: [{ chosenIds: [13], rejected: [{ ids: [14, 15, 16] }] }] },
];

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

const load = (directory: string, adapter?: string) =>
  Engine.load({ directory, device: 'cpu', dtype: 'float32', ...(adapter !== undefined && { adapter }) });

async function scoreAll(engine: Engine, records: PeftGolden[]): Promise<number[]> {
  const builder = new ForestBuilder();
  const handles: number[] = [];
  for (const { record } of records) {
    let trunk = builder.root(record.prompt_ids);
    for (const ids of record.steps_ids) {
      trunk = builder.child(trunk, ids);
      handles.push(trunk);
    }
    for (const ids of record.candidates_ids) handles.push(builder.child(trunk, ids));
  }
  const { forest, segments } = builder.build();
  const scored = new Uint8Array(forest.parents.length);
  for (const handle of handles) scored[segments[handle]!] = 1;
  const { logprobs } = await engine.score(forest, scored);
  return handles.flatMap((handle) => {
    const s = segments[handle]!;
    return [...logprobs.subarray(forest.offsets[s]!, forest.offsets[s + 1]!)];
  });
}

/** A copy of an adapter with changes to its configuration. */
function edited(name: string, changes: object): string {
  const folder = mkdtempSync(join(scratch, 'adapter-'));
  cpSync(adapterOf(name), folder, { recursive: true });
  const path = join(folder, 'adapter_config.json');
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...changes }));
  return folder;
}

describe.each(['llama', 'qwen2'])("PEFT's adapter of %s", (name) => {
  const records = goldens.filter(({ model }) => model === name);
  const expected = records.flatMap(({ steps, candidates }) => [...steps, ...candidates].flat());

  it('gives the log-probs of merge_and_unload within 1e-4', async () => {
    const engine = await load(modelFolder(name), adapterOf(name));
    try {
      expect(worst(await scoreAll(engine, records), expected)).toBeLessThanOrEqual(1e-4);
    } finally {
      await engine.dispose();
    }
  });

  it('goes out of a trainer as it came in, and is the reference of its training', async () => {
    const engine = await load(modelFolder(name));
    const steps: StepMetrics[] = [];
    try {
      const trainer = await engine.createTrainer({ adapter: adapterOf(name) });
      await trainer.saveAdapter(join(scratch, name), 'the base');
      await trainer.dispose();
      await trainPreference(
        engine,
        trees,
        { adapter: adapterOf(name), learningRate: 1e-2, maxSteps: 3 },
        { onStep: (metrics) => steps.push(metrics), adapterDirectory: join(scratch, `${name}-trained`) },
      );
    } finally {
      await engine.dispose();
    }
    const [theirs, ours, trained] = [adapterOf(name), join(scratch, name), join(scratch, `${name}-trained`)].map(
      (folder) => ({
        config: JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as Record<string, unknown>,
        tensors: readTensors(join(folder, 'adapter_model.safetensors')),
      }),
    ) as [Adapter, Adapter, Adapter];
    for (const key of ['r', 'lora_alpha', 'rank_pattern', 'alpha_pattern', 'use_rslora', 'peft_type', 'bias']) {
      expect(ours.config[key], key).toEqual(theirs.config[key]);
    }
    expect(ours.config.base_model_name_or_path).toBe('the base');
    const adapted = [...theirs.tensors].filter(([key]) => key.includes('.lora_'));
    expect([...ours.tensors.keys()].sort()).toEqual(adapted.map(([key]) => key).sort());
    for (const [key, { shape, values }] of adapted) {
      expect(ours.tensors.get(key)!.shape, key).toEqual(shape);
      expect(worst(ours.tensors.get(key)!.values, values), key).toBe(0);
      expect(worst(trained.tensors.get(key)!.values, values), key).toBeGreaterThan(0);
    }
    expect(steps[0]?.loss).toBeCloseTo(Math.LN2, 6);
    expect(steps[2]?.loss).toBeLessThan(Math.LN2 - 0.001);
  });
});

interface Adapter {
  config: Record<string, unknown>;
  tensors: ReturnType<typeof readTensors>;
}

it('the adapter of one model is refused by another, and what it does not compute by name', async () => {
  await expect(load(modelFolder('mistral'), adapterOf('qwen2'))).rejects.toMatchObject({
    code: 'CHECKPOINT_INVALID',
    message: expect.stringContaining('the adapter is for another base'),
  });
  await expect(load(modelFolder('llama'), edited('llama', { use_dora: true }))).rejects.toMatchObject({
    code: 'UNSUPPORTED_MODEL',
    message: expect.stringContaining('use_dora'),
  });
  await expect(load(modelFolder('llama'), join(scratch, 'nowhere'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
});

describe('the command line', () => {
  const model = modelFolder('llama');
  const data = writeLines(scratch, [
    { prompt: '1+1=', chosen: '2', rejected: '3' },
    { prompt: '2+1=', chosen: '3', rejected: '1' },
  ]);
  const out = (name: string): string => join(scratch, name);

  it('trains an adapter, scores with it as with the merged model, and goes on training it', async () => {
    const training = { model, data, lr: 1e-2, epochs: 4, 'batch-size': 2 };
    const lora = { 'lora-rank': 2, 'lora-targets': 'all-linear,lm_head' };
    await succeed('dpo', { ...training, ...lora, output: out('first') });
    const adapter = join(out('first'), 'adapter');
    const input = writeLines(scratch, [{ id: 1, prompt: '1+1=', steps: ['2'], candidates: ['3', '4+4'] }]);
    await succeed('score', { model: out('first'), input, output: out('merged.jsonl') });
    await succeed('score', { model, adapter, input, output: out('adapted.jsonl') });
    expect(readFileSync(out('adapted.jsonl'))).toEqual(readFileSync(out('merged.jsonl')));

    await succeed('dpo', { ...training, adapter, output: out('second') });
    const log = readLines<StepMetrics>(join(out('second'), 'train.jsonl'));
    expect(log[0]?.loss).toBeCloseTo(Math.LN2, 6);
    const config = readFileSync(join(out('second'), 'adapter', 'adapter_config.json'), 'utf8');
    expect(config).toBe(readFileSync(join(adapter, 'adapter_config.json'), 'utf8'));

    // The merged model is another base than the one that the adapter was trained on.
    const other = { model: out('first'), adapter, input, output: out('other.jsonl') };
    const refused = await command('score', other);
    expect([refused.status, refused.stderr]).toEqual([2, expect.stringContaining('another base')]);
    await succeed('score', { ...other, 'allow-other-base': true });
    const both = await command('dpo', { ...training, ...lora, adapter, output: out('both') });
    expect([both.status, both.stderr]).toEqual([2, expect.stringContaining('--adapter: expected no --lora options')]);
  });

  it("warns of PEFT's adapter of another base by name", async () => {
    const input = writeLines(scratch, [{ id: 1, prompt: '1+1=', steps: ['2'] }]);
    const score = async (options: Options) =>
      (await succeed('score', { input, output: out('named.jsonl'), ...options })).stderr;
    const warning = ' was made for ';
    expect(await score({ model, adapter: adapterOf('llama') })).not.toContain(warning);
    const adapter = edited('llama', { base_model_name_or_path: 'org/other-8B' });
    expect(await score({ model, adapter })).toContain(
      `--adapter: ${adapter}${warning}org/other-8B, and --model ${model} is llama by name;`,
    );
    expect(await score({ model, adapter, 'allow-other-base': true })).not.toContain(warning);
    const training = { model, data, adapter, 'max-steps': 1, output: out('warned') };
    expect((await succeed('dpo', training)).stderr).toContain(warning);
    // What was trained here carries its base's fingerprint, whatever it is named.
    expect(await score({ model, adapter: join(out('warned'), 'adapter') })).not.toContain(warning);
  });

  it('leaves frozen weights as they are, and refuses patterns that freeze nothing or everything', async () => {
    const training = { model, data, lr: 1e-2 };
    const freeze = 'model.embed_tokens.*,*.layers.0.*,*norm.weight';
    await succeed('sft', {
      ...training,
      data: writeLines(scratch, [{ prompt: '1+1=', completion: '2' }]),
      freeze,
      output: out('frozen'),
    });
    const [before, after] = [readModel(model), readModel(out('frozen'))];
    const moved = [...before].filter(([name, { values }]) => worst(after.get(name)!.values, values) > 0);
    const trained = [...before.keys()].filter((name) => /^lm_head|layers\.1\.(self_attn|mlp)/.test(name));
    // A bias of the keys shifts all of a query's scores alike: its gradient is zero but for rounding.
    const names = moved.map(([name]) => name).filter((name) => !name.endsWith('k_proj.bias'));
    expect(names.sort()).toEqual(trained.filter((name) => !name.endsWith('k_proj.bias')).sort());
    expect(trained.length).toBeGreaterThan(8);
    for (const [pattern, message] of [
      ['model.layers.9.*', "'model.layers.9.*', which matches none"],
      ['*', 'all are frozen'],
    ] as const) {
      const result = await command('dpo', { ...training, freeze: pattern, output: out('refused') });
      expect([result.status, result.stderr]).toEqual([2, expect.stringContaining(message)]);
    }
    const lora = await command('dpo', { ...training, freeze, 'lora-rank': 2, output: out('refused') });
    expect([lora.status, lora.stderr]).toEqual([
      2,
      expect.stringContaining('freeze: expected a training of the weights'),
    ]);
  });
});
