// The commands score, generate, sft and dpo on tiny models: what they write, and how they end.

import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import type { StepMetrics } from '../../src/training/types.js';
import { command, type Options, readLines, succeed, writeLines } from '../helpers/command.js';
import { runCli } from '../helpers/run-cli.js';
import { withoutTimes } from '../helpers/without-times.js';

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
  const steps = (folder: string): StepMetrics[] =>
    readLines<StepMetrics>(join(out(folder), 'train.jsonl')).map(withoutTimes);

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
    const bytes = (folder: string) => readFileSync(join(out(folder), 'model.safetensors'));
    expect(bytes('dpo-again')).toEqual(bytes('dpo'));
    expect(steps('dpo-again')).toEqual(steps('dpo'));
    // What was written is a model that the commands read.
    await succeed('score', {
      model: out('dpo'),
      input: writeLines(root, [{ prompt: 'q', steps: ['a'] }]),
      output: out('after.jsonl'),
    });
  });

  it('reference log-probs on disk change nothing, cold or warm', async () => {
    const options = { model, data, lr: 1e-3, epochs: 3, 'batch-size': 2 };
    const cache = { 'reference-cache': out('reference') };
    await succeed('dpo', { ...options, 'no-reference-cache': true, output: out('no-cache') });
    const cold = await succeed('dpo', { ...options, ...cache, output: out('cold') });
    const warm = await succeed('dpo', { ...options, ...cache, output: out('warm') });
    expect(cold.summary.cached_reference_tokens).toBeUndefined();
    expect(cold.summary.reference_tokens).toBeGreaterThan(0);
    expect(warm.summary).toMatchObject({
      reference_tokens: 0,
      cached_reference_tokens: cold.summary.reference_tokens,
    });
    for (const folder of ['cold', 'warm']) {
      expect(steps(folder)).toEqual(steps('no-cache'));
      const weights = (name: string) => readFileSync(join(out(name), 'model.safetensors'));
      expect(weights(folder)).toEqual(weights('no-cache'));
    }
    // Another model finds nothing there.
    const other = await succeed('dpo', { ...options, ...cache, model: out('cold'), output: out('other-model') });
    expect(other.summary.reference_tokens).toBe(cold.summary.reference_tokens);
  });

  it('swapped sides flip the margin exactly, before any step is taken', async () => {
    const pairs = [
      { prompt_ids: [4, 5, 6, 7, 8, 9], chosen_ids: [7, 8], rejected_ids: [7, 9, 3] },
      { prompt_ids: [4, 5, 6, 7, 8, 9, 7, 8], chosen_ids: [3], rejected_ids: [12, 4, 4] },
      { prompt_ids: [30, 31, 32, 33], chosen_ids: [10, 11, 12, 13], rejected_ids: [14] },
    ];
    const swapped = pairs.map(({ prompt_ids, chosen_ids, rejected_ids }) => ({
      prompt_ids,
      chosen_ids: rejected_ids,
      rejected_ids: chosen_ids,
    }));
    // Against another model, or all margins are 0.
    const reference = out('swapped-reference');
    await succeed('dpo', { model, data, lr: 1e-2, 'batch-size': 2, output: reference });
    const margins = async (name: string, records: object[], sharing: string): Promise<number[]> => {
      const own: Options = { model, reference, 'no-shuffle': true, 'batch-size': 1, lr: 0, sharing };
      await succeed('dpo', { ...own, data: writeLines(root, records), output: out(name) });
      const found = steps(name).map((metrics) => metrics['rewards/margins'] as number);
      expect(found).toHaveLength(3);
      return found;
    };
    for (const sharing of ['auto', 'off']) {
      const there = await margins(`there-${sharing}`, pairs, sharing);
      const back = await margins(`back-${sharing}`, swapped, sharing);
      expect(back).toEqual(there.map((margin) => -margin));
      for (const margin of there) expect(Math.abs(margin)).toBeGreaterThan(1e-4);
    }
  });

  it('refuses a reference of another vocabulary or tokenizer, or with too few positions, before training', async () => {
    const folder = (name: string, change: (config: Record<string, unknown>) => void, file: string): string => {
      cpSync(model, out(name), { recursive: true });
      const path = join(out(name), file);
      const value = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
      change(value);
      writeFileSync(path, JSON.stringify(value));
      return out(name);
    };
    const mistral = fileURLToPath(new URL('../goldens/models/mistral', import.meta.url));
    const other = folder(
      'other-tokens',
      ({ model }) => {
        const { vocab } = model as { vocab: Record<string, number> };
        [vocab.a, vocab.b] = [vocab.b!, vocab.a!];
      },
      'tokenizer.json',
    );
    const short = folder(
      'few-positions',
      (config) => {
        config.max_position_embeddings = 4;
      },
      'config.json',
    );
    for (const [reference, message] of [
      [mistral, `--reference: expected the vocabulary of ${model}, 101 tokens, and ${mistral} has 107`],
      [other, `--reference: expected the tokenizer of ${model}, where the id `],
      [short, `--reference: expected 5 positions, of the longest path of the data, and ${short} has 4`],
      [out('nowhere'), `--reference: expected a model folder, and ${out('nowhere')} does not exist`],
    ]) {
      const { status, stderr } = await command('dpo', { model, data, reference: reference!, output: out('unmade') });
      expect(stderr).toContain(message);
      expect(status).toBe(2);
      expect(existsSync(out('unmade'))).toBe(false);
    }
  });

  it('cuts what is too long where it is told to, and counts it', async () => {
    const long = { ...tree, steps: [...tree.steps, { chosen_ids: Array(30).fill(9), rejected: [{ ids: [8] }] }] };
    const options = { model, data: writeLines(root, [long]), 'max-length': 20 };
    const refused = await command('dpo', { ...options, output: out('refused') });
    expect(refused.status).toBe(2);
    expect(refused.stderr).toContain('steps[1]: expected at most 20 tokens, --max-length, got 34');
    const { summary, stderr } = await succeed('dpo', { ...options, 'too-long': 'cut', output: out('shorter') });
    expect(summary).toMatchObject({ pairs: 2, cut_steps: 1, dropped_pairs: 1 });
    expect(stderr).toContain('longer than 20 tokens: 1 cut steps, 1 dropped pairs');
    const beyond = await command('dpo', { ...options, 'max-length': 100000, output: out('beyond') });
    expect(beyond.stderr).toContain("--max-length: expected a whole number from 2 to the model's");
  });

  it('a loss that is not finite leaves the batch and the last good weights', async () => {
    const options = { model, data, optimizer: 'sgd', lr: 1e30, schedule: 'constant', 'batch-size': 1, epochs: 5 };
    const { status, stderr } = await command('dpo', { ...options, 'no-shuffle': true, output: out('burst') });
    expect(status, stderr).toBe(1);
    const failed = `${out('burst')}.failed`;
    expect(stderr).toContain(`${failed} holds that micro-batch and the weights before the step [NUMERICAL]`);
    expect(existsSync(out('burst'))).toBe(false);
    expect(readdirSync(failed).sort()).toEqual(['batch.jsonl', 'failure.json', 'model', 'train.jsonl']);
    const report = JSON.parse(readFileSync(join(failed, 'failure.json'), 'utf8')) as { step: number };
    expect(readLines(join(failed, 'train.jsonl'))).toHaveLength(report.step - 1);
    expect(readdirSync(join(failed, 'model'))).toContain('model.safetensors');
    // The micro-batch is data as it is.
    await succeed('dpo', { model, data: join(failed, 'batch.jsonl'), output: out('burst-again') });
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
