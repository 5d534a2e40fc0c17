// A training that is killed or interrupted and taken up again writes what it would have written without a stop.

import { cpSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkpointSteps } from '../../src/training/checkpoint.js';
import { command, type Options, readLines, succeed, writeLines } from '../helpers/command.js';
import { GOLDENS, modelFolder, scratchFolder } from '../helpers/goldens.js';
import { runCli } from '../helpers/run-cli.js';

const scratch = scratchFolder();
const model = modelFolder('llama');
const text = (n: number): string => `${n}+${n}=`;
const pairs = writeLines(
  scratch,
  Array.from({ length: 12 }, (_, n) => ({ prompt: text(n), chosen: `${2 * n}`, rejected: `${2 * n + 1}` })),
);
const examples = writeLines(
  scratch,
  Array.from({ length: 12 }, (_, n) => ({ prompt: text(n), completion: `${2 * n}` })),
);
const common = { model, lr: 1e-3, seed: 3, 'batch-size': 4, 'max-steps': 120 };
const TIMES = /_per_second$|^peak_bytes$|seconds$/;

const cases: [string, string, Options][] = [
  ['dpo', 'dpo', { ...common, data: pairs, 'weight-decay': 0.1 }],
  ['dpo with LoRA', 'dpo', { ...common, data: pairs, 'lora-rank': 3, 'lora-targets': 'q_proj,lm_head' }],
  ['dpo from an adapter', 'dpo', { ...common, data: pairs, adapter: join(GOLDENS, 'adapters', 'llama') }],
  ['sft', 'sft', { ...common, data: examples, freeze: 'model.embed_tokens.*' }],
];

function logOf(folder: string): object[] {
  return readLines<object>(join(folder, 'train.jsonl')).map((line) =>
    Object.fromEntries(Object.entries(line).filter(([key]) => !TIMES.test(key))),
  );
}

/** Runs a command and ends it once it has made a checkpoint of at least `step`. */
async function stopAfter(name: string, options: Options, step: number, signal: NodeJS.Signals, output: string) {
  const args = Object.entries({ ...options, output }).flatMap(([key, value]) => [`--${key}`, `${value}`]);
  let timer: NodeJS.Timeout | undefined;
  const result = await runCli([name, ...args, '--save-every', '5'], (_, child) => {
    timer ??= setInterval(() => {
      if ((checkpointSteps(`${output}.checkpoint`).at(-1) ?? 0) < step) return;
      child.kill(signal); // once: a second SIGINT would end the process before it has saved
      clearInterval(timer);
    }, 2);
  });
  clearInterval(timer);
  expect(result.status, result.stderr).toBe(signal === 'SIGINT' ? 130 : null);
}

describe.each(cases)('%s', (label, name, options) => {
  it('goes on where it was stopped', async () => {
    const [whole, cut] = [join(scratch, `${label} whole`), join(scratch, `${label} cut`)];
    const { summary: expected } = await succeed(name, { ...options, output: whole });
    await stopAfter(name, options, 20, label === 'sft' ? 'SIGINT' : 'SIGKILL', cut);
    expect(existsSync(cut)).toBe(false);
    const done = checkpointSteps(`${cut}.checkpoint`).at(-1)!;
    expect(done).toBeGreaterThanOrEqual(20);
    expect(done).toBeLessThan(120);
    expect(readdirSync(join(`${cut}.checkpoint`, `step-${done}`)).sort()).toEqual(
      [/LoRA|adapter/.test(label) ? 'adapter' : 'model', 'optimizer.safetensors', 'train.jsonl', 'trainer.json'].sort(),
    );

    const unasked = await command(name, { ...options, output: cut });
    expect([unasked.status, unasked.stderr]).toEqual([2, expect.stringContaining('--resume goes on with it')]);
    const other = await command(name, { ...options, lr: 2e-3, output: cut, resume: true });
    expect([other.status, other.stderr]).toEqual([2, expect.stringContaining('whose lr is 0.001, got 0.002')]);

    const { summary, stderr } = await succeed(name, { ...options, output: cut, resume: true });
    expect(stderr).toContain(`goes on after step ${done}`);
    const files = [
      'model.safetensors',
      ...(existsSync(join(whole, 'adapter')) ? ['adapter/adapter_model.safetensors'] : []),
    ];
    for (const file of files)
      expect(readFileSync(join(cut, file)).equals(readFileSync(join(whole, file))), file).toBe(true);
    expect(logOf(cut)).toHaveLength(120);
    expect(logOf(cut)).toEqual(logOf(whole));
    for (const key of ['steps', 'tokens', 'computed_tokens', 'final_loss'])
      expect(summary[key], key).toBe(expected[key]);
    expect(existsSync(`${cut}.checkpoint`)).toBe(false);
  });
});

it('--resume refuses another reference, another tokenizer and another chat template at the same paths', async () => {
  const [own, reference, output] = ['own', 'reference', 'burst'].map((name) => join(scratch, name)) as [
    string,
    string,
    string,
  ];
  for (const folder of [own, reference]) cpSync(model, folder, { recursive: true });
  const edit = (file: string, change: (text: string) => string): (() => void) => {
    const before = readFileSync(file, 'utf8');
    writeFileSync(file, change(before));
    return () => writeFileSync(file, before);
  };
  // Ends by itself after a checkpoint, since its second loss is not finite.
  const rate = { optimizer: 'sgd', lr: 1e30, schedule: 'constant', 'batch-size': 1 };
  const options = { ...rate, model: own, reference, data: pairs, output, 'save-every': 1 };
  expect((await command('dpo', options)).stderr).toContain('[NUMERICAL]');
  expect(checkpointSteps(`${output}.checkpoint`)).not.toEqual([]);

  const refused = async (name: string) => {
    const { status, stderr } = await command('dpo', { ...options, resume: true });
    expect([status, stderr]).toEqual([2, expect.stringContaining(`, whose ${name} is `)]);
  };
  const epsilon = edit(join(reference, 'config.json'), (text) =>
    text.replace(/"rms_norm_eps": [^,]*/, '"rms_norm_eps": 0.1'),
  );
  await refused('hash of --reference');
  epsilon();
  const spaced = edit(join(own, 'tokenizer.json'), (text) => `${text} `);
  await refused("hash of --model's tokenizer.json");
  spaced();
  const template = join(own, 'chat_template.jinja');
  writeFileSync(template, '{{ messages[0].content }}');
  await refused("hash of --model's chat_template.jinja");
  rmSync(template);
  // A folder that was moved is the same reference.
  const moved = join(scratch, 'moved');
  renameSync(reference, moved);
  const again = await command('dpo', { ...options, reference: moved, resume: true });
  expect(again.stderr).toMatch(/goes on after step \d+.*\[NUMERICAL\]/s);
});

it('--resume without a checkpoint starts at the beginning', async () => {
  const options = { ...common, 'max-steps': 2, data: pairs };
  await succeed('dpo', { ...options, output: join(scratch, 'plain') });
  await succeed('dpo', { ...options, output: join(scratch, 'resumed'), resume: true, 'save-every': 1 });
  expect(logOf(join(scratch, 'resumed'))).toEqual(logOf(join(scratch, 'plain')));
});
