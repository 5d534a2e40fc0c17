// Bad usage and bad input through the command line: exit code 2, a message that names the place, nothing written.

import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { runCli } from '../helpers/run-cli.js';

const root = mkdtempSync(join(tmpdir(), 'stepward-cli-'));
afterAll(() => rmSync(root, { recursive: true }));

const goldenModel = (name: string): string => fileURLToPath(new URL(`../goldens/models/${name}`, import.meta.url));
const llama = goldenModel('llama'); // 101 tokens, 256 positions, with a tokenizer, sharded
const mistral = goldenModel('mistral'); // no tokenizer

let count = 0;
function file(content: string): string {
  const path = join(root, `in${count++}.jsonl`);
  writeFileSync(path, content);
  return path;
}
const lines = (...records: unknown[]): string => file(records.map((record) => `${JSON.stringify(record)}\n`).join(''));

/** A copy of a golden model that `change` may damage. */
function damaged(model: string, change: (folder: string) => void): string {
  const folder = join(root, `model${count++}`);
  cpSync(model, folder, { recursive: true });
  change(folder);
  return folder;
}

function editConfig(folder: string, change: object): void {
  const path = join(folder, 'config.json');
  writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, 'utf8')) as object), ...change }));
}

async function expectRefusal(args: string[], ...parts: string[]): Promise<void> {
  const output = join(root, `out${count++}`);
  const { status, stdout, stderr } = await runCli([...args, '--output', output]);
  for (const part of parts) expect(stderr).toContain(part);
  expect(status).toBe(2);
  expect(stdout).toBe('');
  expect(existsSync(output)).toBe(false);
  expect(readdirSync(root).filter((name) => name.includes('partial'))).toEqual([]);
}

describe('usage', () => {
  it.each([
    [[], 'Usage: stepward'],
    [['nonsense'], "unknown command 'nonsense'"],
    [['score', '--input', 'x', '--output', 'y'], "required option '--model <dir>' not specified"],
    [
      ['generate', '--model', 'x', '--input', 'y', '--output', 'z', '--samples', '0'],
      'Expected a whole number of at least 1, got 0',
    ],
    [['dpo', '--model', 'x', '--data', 'y', '--output', 'z', '--loss', 'none'], "argument 'none' is invalid"],
    [
      ['dpo', '--model', 'x', '--data', 'y', '--output', 'z', '--beta', '-0.1'],
      'beta: expected a number above 0, got -0.1',
    ],
    // Refused before a model is looked for: there is none.
    [
      ['dpo', '--model', 'x', '--data', 'y', '--output', 'z', '--label-smoothing', '0.5'],
      'label smoothing: expected a number from 0 to below 0.5, got 0.5',
    ],
    [
      ['dpo', '--model', 'x', '--data', 'y', '--output', 'z', '--gamma', '1'],
      'gamma: expected the loss simpo beside it, got sigmoid',
    ],
    [
      ['dpo', '--model', 'x', '--data', 'y', '--output', 'z', '--mix', '1.5'],
      "option '--mix <x>' argument '1.5' is invalid. Expected a number from 0 to 1, got 1.5.",
    ],
    [
      ['dpo', '--model', 'x', '--data', 'y', '--output', 'z', '--loss', 'simpo', '--reference', 'r'],
      '--reference: expected none beside --loss simpo, which has no reference',
    ],
    [['sft', '--model', 'x', '--data', 'y', '--output', 'z', '--whatever'], "unknown option '--whatever'"],
    [
      ['generate', '--model', llama, '--input', 'y', '--output', 'z', '--top-p', '0'],
      "option '--top-p <p>' argument '0' is invalid. Expected a number above 0, at most 1, got 0.",
    ],
    [
      ['search', '--model', llama, '--input', 'y', '--output', 'z', '--top-p', '1.5'],
      "option '--top-p <p>' argument '1.5' is invalid. Expected a number above 0, at most 1, got 1.5.",
    ],
  ])('%j', async (args, message) => {
    const { status, stdout, stderr } = await runCli(args as string[]);
    expect(stderr).toContain(message);
    expect(status).toBe(2);
    expect(stdout).toBe('');
  });

  it.each([
    ['score', '--input'],
    ['generate', '--input'],
    ['search', '--input'],
    ['judge', '--input'],
    ['eval', '--data'],
    ['sft', '--data'],
    ['dpo', '--data'],
  ])('%s looks for the model first, whatever its input', async (command, input) => {
    const nowhere = join(root, 'nowhere');
    const message = `--model: expected a model folder, and ${nowhere} does not exist [FILE_NOT_FOUND]`;
    await expectRefusal([command, '--model', nowhere, input, join(root, 'nothing.jsonl')], message);
  });

  it('train looks for the model before its problems', async () => {
    const nowhere = join(root, 'nowhere');
    for (const [folder, message] of [
      [nowhere, `model: expected a model folder, and ${nowhere} does not exist [FILE_NOT_FOUND]`],
      [import.meta.filename, `model: expected a model folder, got the file ${import.meta.filename} [INVALID_ARGUMENT]`],
    ] as const) {
      const problems = `problems.source={file: ${join(root, 'nothing.jsonl')}}`;
      const args = ['train', '--run', join(root, `run${count++}`), '--model', folder, '--set', problems];
      const { status, stderr } = await runCli(args);
      expect(stderr).toContain(message);
      expect(status).toBe(2);
    }
  });

  it('help and version are no errors', async () => {
    const help = await runCli(['dpo', '--help']);
    expect(help.status).toBe(0);
    expect(help.stdout).toContain('--label-smoothing');
    expect(help.stdout).toMatch(/--model <dir> .*\(required\)/);
    expect((await runCli(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it.each([
    [['score', '--input', 'x', '--output', 'y'], "required option '--model <dir>' not specified"],
    [['sft', '--model', 'x', '--data', 'y', '--output', 'z', '--whatever'], "unknown option '--whatever'"],
    [['nonsense'], "unknown command 'nonsense'"],
  ])('with --json, bad usage is one JSON object on stdout too: %j', async (args, message) => {
    const { status, stdout } = await runCli([...args, '--json']);
    expect(status).toBe(2);
    expect(JSON.parse(stdout)).toEqual({ error: { code: 'INVALID_ARGUMENT', message } });
  });

  it('with --json, a failure is one JSON object on stdout', async () => {
    const { status, stdout } = await runCli([
      'score',
      '--model',
      llama,
      '--input',
      'none.jsonl',
      '--output',
      'z',
      '--json',
    ]);
    expect(status).toBe(2);
    expect(JSON.parse(stdout)).toEqual({
      error: { code: 'FILE_NOT_FOUND', message: '--input: none.jsonl does not exist' },
    });
  });
});

describe('records', () => {
  const pair = { prompt_ids: [4], chosen_ids: [5], rejected_ids: [6] };
  it.each<[string, unknown, string]>([
    [
      'a token id out of range',
      { ...pair, chosen_ids: [101] },
      ':2: chosen_ids[0]: expected a token id from 0 to 100, got 101',
    ],
    ['an empty chosen', { ...pair, chosen_ids: [] }, ':2: chosen_ids: expected at least one token'],
    ['a mix that is no share', { ...pair, mix: 1.5 }, ':2: mix: expected at most 1, got 1.5'],
    [
      'chosen equal to rejected',
      { prompt: 'q', chosen: 'a', rejected: 'a' },
      ':2: rejected: expected other tokens than chosen',
    ],
    [
      'a context too long',
      { ...pair, prompt_ids: Array(256).fill(4) },
      ":2: record: expected at most 256 tokens, the model's positions, got 257",
    ],
  ])('dpo: %s', async (_name, record, message) => {
    const data = lines(pair, record);
    await expectRefusal(['dpo', '--model', llama, '--data', data], data + message);
  });

  it('a broken line, with its number', async () => {
    const data = file('{"prompt_ids": [1], "completion_ids": [2]}\n{"prompt_ids": [1]\n');
    await expectRefusal(['sft', '--model', llama, '--data', data], `${data}:2: expected one JSON value on the line`);
  });

  it('text for a model without a tokenizer', async () => {
    const input = lines({ prompt: 'hello' });
    await expectRefusal(
      ['generate', '--model', mistral, '--input', input],
      `${input}:1: prompt: expected token ids (prompt_ids), got text`,
    );
  });

  it('a file that is not there, or is a folder', async () => {
    await expectRefusal(['dpo', '--model', llama, '--data', join(root, 'none')], '--data', 'none does not exist');
    await expectRefusal(['score', '--model', llama, '--input', root], '--input: expected a file, got the folder');
  });

  it('an output folder with something in it', async () => {
    const output = join(root, 'full');
    mkdirSync(output);
    writeFileSync(join(output, 'notes.txt'), 'mine');
    const { status, stderr } = await runCli(['dpo', '--model', llama, '--data', lines(pair), '--output', output]);
    expect(stderr).toContain(`${output} has files in it`);
    expect(status).toBe(2);
    expect(readdirSync(output)).toEqual(['notes.txt']);
  });

  it('--resume of a training that is finished', async () => {
    const output = join(root, 'finished');
    const args = ['dpo', '--model', llama, '--data', lines(pair), '--output', output, '--no-reference-cache'];
    expect((await runCli(args)).status).toBe(0);
    const before = readdirSync(output);
    const { status, stderr } = await runCli([...args, '--resume']);
    expect(stderr).toContain(`--resume: ${output} holds a finished training`);
    expect(status).toBe(2);
    expect(readdirSync(output)).toEqual(before);
  });
});

describe('checkpoints', () => {
  const score = (model: string): string[] => [
    'score',
    '--model',
    model,
    '--input',
    lines({ prompt_ids: [1], steps_ids: [[2]] }),
  ];
  const shard = 'model-00002-of-00003.safetensors';

  it('a folder that is not there', () => expectRefusal(score(join(root, 'none')), '--model', 'none does not exist'));

  it('an unknown architecture, by its name', () =>
    expectRefusal(
      score(damaged(llama, (folder) => editConfig(folder, { model_type: 'gpt2', architectures: ['GPT2LMHeadModel'] }))),
      'config.json',
      'gpt2',
    ));

  it('a pickle checkpoint', () => {
    const model = damaged(mistral, (folder) => {
      rmSync(join(folder, 'model.safetensors'));
      writeFileSync(join(folder, 'pytorch_model.bin'), 'PK');
    });
    return expectRefusal(score(model), 'pytorch_model.bin', 'safetensors');
  });

  it('a truncated shard', () =>
    expectRefusal(score(damaged(llama, (folder) => truncateSync(join(folder, shard), 20_000))), shard));

  it('a shard that the index names and the folder lacks', () =>
    expectRefusal(score(damaged(llama, (folder) => rmSync(join(folder, shard)))), shard));

  it('a broken tokenizer', () =>
    expectRefusal(
      score(damaged(llama, (folder) => writeFileSync(join(folder, 'tokenizer.json'), '{'))),
      'tokenizer.json',
    ));
});

describe('memory', () => {
  const pair = { prompt_ids: [1, 2, 3], chosen_ids: [4], rejected_ids: [5] };

  it('refuses what cannot fit before anything is computed, and says what would', async () => {
    const output = join(root, 'too-large');
    const args = ['dpo', '--model', llama, '--data', lines(pair), '--output', output, '--memory-limit-mib', '1'];
    const { status, stderr } = await runCli([...args, '--no-reference-cache']);
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /training with micro-batches of 8 tokens takes [\d.]+ GiB \(loaded .*expected at most 0\.00 GiB\. Less is taken by --micro-batch-tokens 8 /,
    );
    expect(existsSync(output)).toBe(false);
  });

  it('says what a training was to take and took', async () => {
    const output = join(root, 'estimated');
    const args = ['dpo', '--model', llama, '--data', lines(pair), '--output', output, '--no-reference-cache', '--json'];
    const { status, stdout } = await runCli(args);
    expect(status).toBe(0);
    const summary = JSON.parse(stdout);
    // Almost all of it is the process itself.
    expect(summary.estimated_bytes / summary.peak_bytes).toBeGreaterThan(0.6);
    expect(summary.estimated_bytes / summary.peak_bytes).toBeLessThan(1.3);
  });
});
