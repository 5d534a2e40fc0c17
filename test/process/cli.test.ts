// The commands score, generate, sft and dpo on tiny models: what they write, and how they end.

import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { readLines, succeed, writeLines } from '../helpers/command.js';
import { runCli } from '../helpers/run-cli.js';

const root = mkdtempSync(join(tmpdir(), 'stepward-commands-'));
afterAll(() => rmSync(root, { recursive: true }));
const model = fileURLToPath(new URL('../goldens/models/llama', import.meta.url));
const out = (name: string): string => join(root, name);

interface Output {
  ids: number[];
  text: string | null;
  logprob: number;
  finish: string;
}

describe('generate', () => {
  const records = Array.from({ length: 5 }, (_, i) => ({ id: `p${i}`, prompt: `${i} + ${i} =` }));
  const options = { model, samples: 3, 'max-new-tokens': 20, seed: 4, stop: '9' };

  it('gives a record the same samples alone as in the whole file, in the order of the file', async () => {
    const whole = await succeed('generate', {
      ...options,
      input: writeLines(root, records),
      output: out('whole.jsonl'),
    });
    const part = writeLines(root, [records[3] as object, records[1] as object]);
    await succeed('generate', { ...options, input: part, output: out('part.jsonl') });
    const all = readLines<{ id: string; outputs: Output[] }>(out('whole.jsonl'));
    const some = readLines<{ id: string; outputs: Output[] }>(out('part.jsonl'));
    expect(all.map(({ id }) => id)).toEqual(['p0', 'p1', 'p2', 'p3', 'p4']);
    expect(some.map(({ id }) => id)).toEqual(['p3', 'p1']);
    for (const { id, outputs } of some) {
      const same = all.find((record) => record.id === id)?.outputs ?? [];
      expect(outputs.map(({ ids }) => ids)).toEqual(same.map(({ ids }) => ids));
      for (const [i, { logprob }] of outputs.entries()) expect(logprob).toBeCloseTo(same[i]?.logprob as number, 4);
    }
    const outputs = all.flatMap((record) => record.outputs);
    expect(whole.summary).toMatchObject({ records: 5, prompt_tokens: 5 * 8 });
    expect(whole.summary.generated_tokens).toBe(outputs.reduce((sum, { ids }) => sum + ids.length, 0));
    for (const { ids, text, finish } of outputs) {
      if (finish === 'stop') expect((text as string).indexOf('9')).toBe((text as string).length - 1);
      if (finish === 'length') expect(ids).toHaveLength(20);
    }
    expect(new Set(outputs.map(({ text }) => text)).size).toBeGreaterThan(10);
  });

  it('repeats itself with a seed and differs with another', async () => {
    const input = writeLines(root, records);
    for (const [name, seed] of [
      ['one', 4],
      ['again', 4],
      ['other', 5],
    ] as const) {
      await succeed('generate', { ...options, seed, input, output: out(name) });
    }
    expect(readFileSync(out('again'))).toEqual(readFileSync(out('one')));
    expect(readFileSync(out('other'))).not.toEqual(readFileSync(out('one')));
  });
});

it('score gives the same numbers for text and its ids, and sums tokens to steps', async () => {
  const input = writeLines(root, [{ id: 1, prompt: 'a', steps: ['b=', 'c'], candidates: ['d'] }]);
  await succeed('score', { model, input, output: out('text.jsonl') });
  const ids = (text: string): number[] => [...text].map((character) => vocab[character] as number);
  const vocab = (
    JSON.parse(readFileSync(join(model, 'tokenizer.json'), 'utf8')) as { model: { vocab: Record<string, number> } }
  ).model.vocab;
  const record = { id: 1, prompt_ids: [0, ...ids('a')], steps_ids: [ids('b='), ids('c')], candidates_ids: [ids('d')] };
  await succeed('score', { model, input: writeLines(root, [record]), output: out('ids.jsonl') });
  expect(readFileSync(out('ids.jsonl'))).toEqual(readFileSync(out('text.jsonl')));
  const [line] = readLines<{ steps: { logprob: number; token_logprobs: number[] }[] }>(out('text.jsonl'));
  expect(line?.steps.map((step) => step.token_logprobs.length)).toEqual([2, 1]);
  const step = line?.steps[0];
  expect(step?.logprob).toBeCloseTo(step?.token_logprobs.reduce((sum, value) => sum + value, 0) as number, 5);
});

describe('training', () => {
  const tree = { prompt_ids: [4, 5], steps: [{ chosen_ids: [7, 8], rejected: [{ ids: [9] }, { ids: [7, 9] }] }] };
  const data = writeLines(root, [tree, { prompt: 'q', chosen: 'yes', rejected: 'no' }]);

  it('dpo writes a model folder and a log that starts at ln 2, the same bytes each time', async () => {
    const options = { model, data, lr: 1e-3, epochs: 3, 'batch-size': 2 };
    const { summary } = await succeed('dpo', { ...options, output: out('dpo') });
    expect(summary).toMatchObject({ steps: 6, pairs: 3 });
    for (const key of ['tokens', 'computed_tokens', 'seconds', 'load_seconds', 'peak_bytes'])
      expect(summary[key]).toBeGreaterThan(0);
    const log = readLines<Record<string, number>>(join(out('dpo'), 'train.jsonl'));
    expect(log).toHaveLength(6);
    expect(log[0]?.loss).toBeCloseTo(Math.LN2, 6);
    expect(log[5]?.loss).toBeLessThan(log[0]?.loss as number);
    expect(readdirSync(out('dpo')).sort()).toEqual([
      'config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
      'train.jsonl',
    ]);
    await succeed('dpo', { ...options, output: out('dpo-again') });
    for (const name of ['model.safetensors', 'train.jsonl']) {
      expect(readFileSync(join(out('dpo-again'), name))).toEqual(readFileSync(join(out('dpo'), name)));
    }
    // What was written is a model that the commands read.
    await succeed('score', {
      model: out('dpo'),
      input: writeLines(root, [{ prompt: 'q', steps: ['a'] }]),
      output: out('after.jsonl'),
    });
  });

  it('dpo with LoRA writes the adapter beside the merged model', async () => {
    await succeed('dpo', {
      model,
      data,
      lr: 1e-2,
      'lora-rank': 2,
      'lora-targets': 'q_proj,v_proj',
      output: out('lora'),
    });
    const config = JSON.parse(readFileSync(join(out('lora'), 'adapter', 'adapter_config.json'), 'utf8')) as object;
    expect(config).toMatchObject({ r: 2, lora_alpha: 4, target_modules: ['q_proj', 'v_proj'] });
    expect(statSync(join(out('lora'), 'adapter', 'adapter_model.safetensors')).size).toBeGreaterThan(0);
    expect(statSync(join(out('lora'), 'model.safetensors')).size).toBeGreaterThan(0);
  });

  it('sft learns its examples', async () => {
    const examples = writeLines(root, [
      { prompt: '1+1=', completion: '2' },
      { prompt: '2+1=', completion: '3' },
    ]);
    const { summary } = await succeed('sft', { model, data: examples, lr: 1e-2, epochs: 30, output: out('sft') });
    expect(summary).toMatchObject({ steps: 30, examples: 2 });
    const log = readLines<{ loss: number }>(join(out('sft'), 'train.jsonl'));
    expect(log.at(-1)?.loss).toBeLessThan(0.1);
    const greedy = {
      model: out('sft'),
      temperature: 0,
      input: writeLines(root, [{ prompt: '2+1=' }]),
      output: out('greedy'),
    };
    await succeed('generate', greedy);
    expect(readLines<{ outputs: Output[] }>(out('greedy'))[0]?.outputs[0]).toMatchObject({ text: '3', finish: 'eos' });
  });

  it('--overwrite replaces an earlier model and leaves other files alone', async () => {
    const examples = writeLines(root, [{ prompt: 'a', completion: 'b' }]);
    await succeed('sft', { model, data: examples, output: out('twice') });
    const stale = join(out('twice'), 'model-00001-of-00002.safetensors');
    writeFileSync(stale, 'old');
    writeFileSync(join(out('twice'), 'notes.txt'), 'mine');
    await succeed('sft', { model, data: examples, output: out('twice'), overwrite: true });
    expect(readdirSync(out('twice'))).toContain('notes.txt');
    expect(readdirSync(out('twice'))).not.toContain('model-00001-of-00002.safetensors');
  });
});

describe('Ctrl-C', () => {
  const ids = (i: number, length: number): number[] => Array.from({ length }, (_, k) => (i * 7 + k * (i + 3)) % 101);
  const records = Array.from({ length: 2000 }, (_, i) => ({
    prompt_ids: ids(i, 90),
    chosen_ids: [...ids(i, 60), 5],
    rejected_ids: [...ids(i, 60), 6],
  }));
  const args = ['dpo', '--model', model, '--data', writeLines(root, records), '--epochs', '100', '--json'];
  const partial = (): string[] => readdirSync(root).filter((name) => name.includes('cut'));

  /** Sends `signals`, one right after the other, once training is under way. */
  async function interrupt(signals: NodeJS.Signals[], output: string) {
    const waiting = [...signals];
    return runCli([...args, '--output', out(output)], (text, child) => {
      if (!text.includes('dpo: 2000 records')) return;
      for (const signal of waiting.splice(0)) child.kill(signal);
    });
  }

  it('ends training with 130 and leaves nothing half written', async () => {
    const { status, stdout, stderr } = await interrupt(['SIGINT'], 'cut');
    expect(stderr).toContain('interrupted');
    expect(status).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'CANCELLED' } });
    expect(partial()).toEqual([]);
  });

  it('given twice, ends the process at once, and leaves nothing either', async () => {
    // Two kinds, for a second SIGINT may merge with a first that is still pending.
    const { status } = await interrupt(['SIGINT', 'SIGTERM'], 'cut-twice');
    expect(status).toBe(130);
    expect(partial()).toEqual([]);
  });
});
