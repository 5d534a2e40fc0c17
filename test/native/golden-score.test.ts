// Per-token log-probs of every family against transformers (float32, eager attention).

import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ForestBuilder } from '../../src/data/forest.js';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import { readLines, succeed, writeLines } from '../helpers/command.js';
import {
  editedModel,
  MODELS,
  modelFolder,
  readGolden,
  type ScoreGolden,
  scratchFolder,
  worst,
} from '../helpers/goldens.js';

const goldens = readGolden<ScoreGolden[]>('score.json');
const scratch = scratchFolder();

/** The records of a model as one forest; segments in the order of the golden's log-probs. */
function layOut(records: ScoreGolden[]) {
  const builder = new ForestBuilder();
  const handles: number[] = [];
  const leaves: { node: number; ids: number[] }[] = [];
  for (const { record } of records) {
    let trunk = builder.root(record.prompt_ids);
    for (const ids of record.steps_ids) {
      trunk = builder.child(trunk, ids);
      handles.push(trunk);
    }
    for (const ids of record.candidates_ids) {
      handles.push(builder.child(trunk, ids));
      leaves.push({ node: trunk, ids });
    }
  }
  const { forest, segments } = builder.build();
  return { forest, order: handles.map((handle) => segments[handle]!), leaves, segments };
}

async function scoreAll(engine: Engine, records: ScoreGolden[]): Promise<number[]> {
  const { forest, order } = layOut(records);
  const scored = new Uint8Array(forest.parents.length);
  for (const segment of order) scored[segment] = 1;
  const { logprobs } = await engine.score(forest, scored);
  return order.flatMap((s) => [...logprobs.subarray(forest.offsets[s]!, forest.offsets[s + 1]!)]);
}

const expected = (records: ScoreGolden[]) =>
  records.flatMap(({ steps, candidates }) => [...steps, ...candidates].flat());

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

describe.each(MODELS)('%s', (name) => {
  const records = goldens.filter(({ model }) => model === name);

  it('gives the log-probs of transformers within 1e-4', async () => {
    const engine = await Engine.load({ directory: modelFolder(name), device: 'cpu', dtype: 'float32' });
    try {
      expect(worst(await scoreAll(engine, records), expected(records))).toBeLessThanOrEqual(1e-4);
    } finally {
      await engine.dispose();
    }
  });

  it('reads the same next-token log-probs', async () => {
    const engine = await Engine.load({ directory: modelFolder(name), device: 'cpu', dtype: 'float32' });
    try {
      const { forest, leaves, segments } = layOut(records);
      const first = records.flatMap(({ candidates }) => candidates.map((values) => values[0]!));
      for (const [index, { node, ids }] of leaves.entries()) {
        const { logprobs } = await engine.readout(forest, Int32Array.of(segments[node]!), Int32Array.of(ids[0]!, 0));
        expect(logprobs).toHaveLength(2);
        expect(Math.abs(logprobs[0]! - first[index]!)).toBeLessThanOrEqual(1e-4);
      }
    } finally {
      await engine.dispose();
    }
  });

  it('gives them through the command', async () => {
    const output = join(scratch, `${name}.jsonl`);
    const input = writeLines(
      scratch,
      records.map(({ record }) => record),
    );
    await succeed('score', { model: modelFolder(name), input, output, device: 'cpu' });
    type Part = { logprob: number; token_logprobs: number[] };
    const lines = readLines<{ id: string; steps: Part[]; candidates: Part[] }>(output);
    expect(lines.map(({ id }) => id)).toEqual(records.map(({ record }) => record.id));
    for (const [index, line] of lines.entries()) {
      for (const part of ['steps', 'candidates'] as const) {
        const golden = records[index]![part];
        expect(line[part]).toHaveLength(golden.length);
        for (const [k, { logprob, token_logprobs }] of line[part].entries()) {
          expect(worst(token_logprobs, golden[k]!)).toBeLessThanOrEqual(1e-4);
          expect(Math.abs(logprob - token_logprobs.reduce((a, b) => a + b, 0))).toBeLessThanOrEqual(1e-4);
        }
      }
    }
  });
});

type Config = Record<string, unknown>;

// Each feature, taken out of config.json, must show: else the goldens above would pass without it.
it.each<[string, string, (config: Config) => void]>([
  ['llama', 'llama3 rope', (config) => ((config.rope_parameters as Config).rope_type = 'default')],
  ['llama-tied', 'linear rope', (config) => (config.rope_scaling = null)],
  ['mistral', 'sliding window', (config) => (config.sliding_window = null)],
  ['qwen2', 'yarn', (config) => (config.rope_scaling = null)],
  ['qwen2', 'window of the second layer', (config) => (config.use_sliding_window = false)],
  ['qwen3', 'yarn attention factor', (config) => ((config.rope_parameters as Config).attention_factor = 1)],
])('%s is told apart from itself without %s', async (name, _feature, edit) => {
  const records = goldens.filter(({ model }) => model === name);
  const engine = await Engine.load({ directory: editedModel(scratch, name, edit), device: 'cpu', dtype: 'float32' });
  try {
    expect(worst(await scoreAll(engine, records), expected(records))).toBeGreaterThan(0.05);
  } finally {
    await engine.dispose();
  }
});
