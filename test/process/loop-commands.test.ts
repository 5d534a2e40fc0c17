// search, judge, eval and train as their users run them, on the built-in model: files, summaries, exit codes.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { makeEft, makeProblems } from '../../src/arithmetic/index.js';
import type { SearchRecord } from '../../src/loop/search-record.js';
import type { StepMetrics } from '../../src/training/types.js';
import { readLines } from '../helpers/command.js';
import { withoutTimes } from '../helpers/without-times.js';

const repository = fileURLToPath(new URL('../..', import.meta.url));
const MODEL = join(repository, 'recipes/arithmetic-m1');
const root = mkdtempSync(join(tmpdir(), 'stepward-commands-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
  summary: Record<string, unknown>;
}

/** Runs an entry of dist/; `interrupt`: sends SIGINT once stderr holds this text. */
function start(entry: string, args: string[], interrupt?: string): Promise<Outcome> {
  const child = spawn(process.execPath, [join(repository, 'dist', entry), ...args], { cwd: root });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (data) => {
    stdout += data;
  });
  child.stderr.on('data', (data) => {
    const before = stderr.includes(interrupt ?? '\0');
    stderr += data;
    if (interrupt !== undefined && !before && stderr.includes(interrupt)) child.kill('SIGINT');
  });
  return new Promise((resolve) => {
    child.on('close', (status) => {
      const last = stdout.trimEnd().split('\n').at(-1) ?? '';
      resolve({ status, stdout, stderr, summary: last.startsWith('{') ? JSON.parse(last) : {} });
    });
  });
}

const stepward = (...args: string[]) => start('cli.js', args);

function lines<T>(path: string): T[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
}

function jsonl(name: string, records: object[]): string {
  const path = join(root, name);
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  return path;
}

/** Wins as the paper counts them: each pair is worth one, split over its orders; a tie splits its share. */
function winsOf({ candidates, verdicts }: Pick<SearchRecord['steps'][number], 'candidates' | 'verdicts'>): number[] {
  const wins = candidates.map(() => 0);
  for (const { first, second, winner } of verdicts) {
    const orders = verdicts.filter(
      (other) => [first, second].sort().join() === [other.first, other.second].sort().join(),
    );
    for (const [index, name] of [
      [first, 'first'],
      [second, 'second'],
    ] as const) {
      const share = winner === name ? 1 : winner === 'tie' ? 0.5 : 0;
      wins[index] = (wins[index] as number) + share / orders.length;
    }
  }
  return wins;
}

const problems = jsonl('problems.jsonl', makeProblems({ split: 'search', count: 12, seed: 3 }));
const pairs = jsonl(
  'pairs.jsonl',
  makeEft({ split: 'held-out', count: 20, seed: 3 }).map(({ critique: _, ...pair }) => pair),
);
const SEARCH = ['search', '--model', MODEL, '--width', '4', '--temperature', '0.8', '--max-steps', '6'];
const LIMITS = ['--max-step-tokens', '24', '--judge-max-tokens', '80', '--json'];

describe('stepward search', () => {
  it('writes whole trees and pairs, and sums them up', async () => {
    const output = join(root, 'found');
    const { status, stderr, summary } = await stepward(...SEARCH, '--input', problems, '--output', output, ...LIMITS);
    expect(status, stderr).toBe(0);
    expect(stderr).toMatch(/search: wrote .*found \(\d+ pairs, \d+ verdicts, \d+\.\d% of the answers right\)/);
    const records = lines<SearchRecord>(join(output, 'search.jsonl'));
    expect(records.length).toBe(12);
    for (const { steps, prompt_ids, solution, finish } of records) {
      expect(prompt_ids.length).toBeGreaterThan(0);
      expect(['eos', 'max_steps', 'length']).toContain(finish);
      for (const { candidates, verdicts, chosen, rejected } of steps) {
        expect(candidates.reduce((sum, { count }) => sum + count, 0)).toBe(4);
        expect(solution).toContain(candidates[chosen]?.text.trim());
        // Every ordered pair of the candidates that are whole.
        const whole = candidates.flatMap((candidate, i) => (candidate.finish === 'length' ? [] : [i]));
        const wanted = whole.flatMap((i) => whole.filter((j) => j !== i).map((j) => `${i} ${j}`));
        expect(verdicts.map(({ first, second }) => `${first} ${second}`).sort()).toEqual(wanted.sort());
        for (const { winner, p_first } of verdicts) {
          expect(['first', 'second', 'tie', 'invalid']).toContain(winner);
          if (p_first !== null) expect(p_first >= 0 && p_first <= 1).toBe(true);
        }
        if (rejected !== null) expect((candidates[chosen]?.wins ?? 0) > (candidates[rejected]?.wins ?? 0)).toBe(true);
      }
    }
    const found = lines<{ prompt_ids: number[] }>(join(output, 'pairs.jsonl'));
    expect(summary).toMatchObject({ records: 12, problems: 12, pairs: found.length });
    const keys =
      'prompt_tokens generated_tokens seconds load_seconds verdicts judge_prompt_tokens judge_generated_tokens computed_tokens prefix_free_tokens flip_rate first_rate parse_failures';
    for (const key of keys.split(' ')) expect(summary, key).toHaveProperty(key);
    expect(summary.computed_tokens as number).toBeLessThan(summary.prefix_free_tokens as number);
  });

  it.each([
    [['--max-step-tokens', '24']],
    [['--max-step-tokens', '24', '--no-merge']],
    [['--max-step-tokens', '24', '--no-merge', '--orders', 'random']],
    // Steps are some 18 tokens long: some are cut off.
    [['--max-step-tokens', '18', '--truncated', 'keep']],
  ])('gives wins that follow from the verdicts: %j', async (flags) => {
    const output = join(root, `wins ${flags.join(' ')}`);
    const limits = [...flags, '--judge-max-tokens', '80', '--json'];
    const { status, stderr } = await stepward(...SEARCH, '--input', problems, '--output', output, ...limits);
    expect(status, stderr).toBe(0);
    const steps = lines<SearchRecord>(join(output, 'search.jsonl')).flatMap((tree) => [
      ...tree.steps,
      ...tree.discarded,
    ]);
    expect(steps.some(({ verdicts }) => verdicts.length > 0)).toBe(true);
    for (const step of steps) {
      expect(step.candidates.map(({ wins }) => wins)).toEqual(winsOf(step));
      if (!flags.includes('--no-merge')) continue;
      expect(step.candidates.map(({ count }) => count)).toEqual([1, 1, 1, 1]);
      for (const one of step.candidates) {
        const twins = step.candidates.filter(
          ({ ids, finish }) => ids.join() === one.ids.join() && finish === one.finish,
        );
        expect(new Set(twins.map(({ wins }) => wins)).size).toBe(1);
      }
    }
  });

  it.each([
    [['--pairing', 'swiss', '--rounds', '1']],
    [['--pairing', 'knockout']],
    [['--strategy', 'beam', '--beam', '2']],
    [['--strategy', 'best_first', '--depth-bonus', '0.1', '--expansions', '5']],
  ])('takes other pairings and strategies: %j', async (flags) => {
    const output = join(root, flags.join(' '));
    const { status, stderr } = await stepward(...SEARCH, '--input', problems, '--output', output, ...LIMITS, ...flags);
    expect(status, stderr).toBe(0);
    const trees = lines<SearchRecord>(join(output, 'search.jsonl'));
    expect(trees.length).toBe(12);
    for (const { steps, discarded } of trees) {
      for (const step of [...steps, ...discarded]) expect(step.rounds === undefined).toBe(!flags.includes('--pairing'));
      if (!flags.includes('--strategy')) continue;
      for (const { reason } of discarded) expect(['not_taken', 'cut_off']).toContain(reason);
      if (flags.includes('--expansions')) expect(steps.length + discarded.length).toBeLessThanOrEqual(5);
    }
  });

  it('goes beside foreign files, and over an earlier search only when told to', async () => {
    const output = mkdtempSync(join(root, 'beside-'));
    writeFileSync(join(output, 'notes.txt'), 'mine');
    const one = jsonl('one.jsonl', [{ ...lines<object>(problems)[0], id: 7 }]);
    const search = (...more: string[]) => stepward(...SEARCH, '--input', one, '--output', output, ...LIMITS, ...more);
    const first = await search();
    expect(first.status, first.stderr).toBe(0);
    expect(lines<SearchRecord>(join(output, 'search.jsonl')).map(({ id }) => id)).toEqual([7]);
    const again = await search();
    expect([again.status, again.stderr.includes('has search.jsonl in it (--overwrite')]).toEqual([2, true]);
    expect((await search('--overwrite')).status).toBe(0);
    expect(readFileSync(join(output, 'notes.txt'), 'utf8')).toBe('mine');
  });

  it('gives part of a file the same trees as the whole', async () => {
    const all = join(root, 'found');
    const some = jsonl('some.jsonl', lines<object>(problems).slice(4, 7));
    const { status } = await stepward(...SEARCH, '--input', some, '--output', join(root, 'part'), ...LIMITS);
    expect(status).toBe(0);
    const choices = (path: string) =>
      lines<SearchRecord>(join(path, 'search.jsonl')).map(({ id, solution, steps }) => [
        id,
        solution,
        steps.map(({ chosen, rejected }) => [chosen, rejected]),
      ]);
    expect(choices(join(root, 'part'))).toEqual(choices(all).slice(4, 7));
  });

  it('refuses bad options and input by name', async () => {
    const narrow = await stepward(
      'search',
      '--model',
      MODEL,
      '--input',
      problems,
      '--output',
      join(root, 'x'),
      '--width',
      '1',
    );
    expect([narrow.status, narrow.stderr.includes('--width')]).toEqual([2, true]);
    const broken = jsonl('broken.jsonl', [{ problem: 'fine' }, { problem: 4 }]);
    const bad = await stepward(...SEARCH, '--input', broken, '--output', join(root, 'x'));
    expect([bad.status, bad.stderr.includes('broken.jsonl:2: problem: expected a text, got 4')]).toEqual([2, true]);
    expect(existsSync(join(root, 'x'))).toBe(false);
  });
});

describe('the rollout of a summary', () => {
  const prompts = jsonl('prompts.jsonl', [{ id: 1, prompt: 'What is 12 + 30?', steps: ['Step 1'], candidates: ['a'] }]);
  const to = (name: string) => ['--output', join(root, `rollout-${name}`), '--kv-budget-mib', '64'];
  it.each([
    ['generate', ['--input', prompts, '--max-new-tokens', '8', ...to('generate')]],
    ['score', ['--input', prompts, ...to('score')]],
    ['search', ['--input', problems, '--max-steps', '2', ...to('search')]],
    ['judge', ['--input', pairs, ...to('judge')]],
    ['eval', ['--data', problems, '--max-new-tokens', '32', ...to('eval')]],
  ])('%s says what the engine did', async (name, args) => {
    const { status, stderr, summary } = await stepward(name, '--model', MODEL, ...args, '--json');
    expect(status, stderr).toBe(0);
    const rollout = summary.rollout as Record<string, number | null>;
    expect(Object.keys(rollout)).toEqual([
      'computed_tokens',
      'prefix_free_tokens',
      'cache_hit_rate',
      'rows_per_decode_step',
      'prefill_tokens_per_second',
      'decode_tokens_per_second',
      'evicted_tokens',
      'peak_kv_bytes',
    ]);
    expect(rollout.computed_tokens).toBeGreaterThan(0);
    expect(rollout.prefix_free_tokens).toBeGreaterThanOrEqual(rollout.computed_tokens ?? 0);
    expect(rollout.prefill_tokens_per_second).toBeGreaterThan(0);
    expect(rollout.peak_kv_bytes).toBeGreaterThan(0);
    expect(rollout.rows_per_decode_step === null).toBe(name === 'score');
    if (name !== 'eval') expect(summary.computed_tokens).toBe(rollout.computed_tokens);
  });
});

describe('records too long for the model', () => {
  const long = 'many apples '.repeat(400);
  it.each([
    ['search', '--input', { id: 2, problem: long }, 'prompt'],
    ['eval', '--data', { id: 2, problem: long, answer: 1 }, 'prompt'],
    ['judge', '--input', { id: 1, problem: 'p', steps: [], a: long, b: 'x' }, 'judge prompt'],
  ])('%s refuses them by line', async (name, option, record, part) => {
    const input = jsonl('long.jsonl', [{ problem: 'a', answer: 1, a: 'x', b: 'y' }, record]);
    const output = join(root, 'never-long');
    const { status, stderr } = await stepward(name, '--model', MODEL, option, input, '--output', output);
    expect(stderr).toMatch(
      new RegExp(
        `long\\.jsonl:2: expected at most \\d+ tokens, the model's positions, got \\d+ \\(${part} \\d+ \\+ one`,
      ),
    );
    expect([status, existsSync(output)]).toEqual([2, false]);
  });
});

describe('stepward judge', () => {
  it.each(['critique', 'readout'])('judges in both orders by %s', async (mode) => {
    const output = join(root, `${mode}.jsonl`);
    const { status, stderr, summary } = await stepward(
      'judge',
      '--model',
      MODEL,
      '--input',
      pairs,
      '--output',
      output,
      '--judge',
      mode,
      '--judge-max-tokens',
      '80',
      '--json',
    );
    expect(status, stderr).toBe(0);
    const records = lines<{ id: string; winner: string; votes: { first: string; winner: string }[] }>(output);
    expect(records.length).toBe(20);
    for (const { winner, votes } of records) {
      expect(votes.map(({ first }) => first)).toEqual(['a', 'b']);
      const [one, two] = votes.map((vote) => vote.winner);
      if (one === two) expect(winner).toBe(one);
      else if ([one, two].includes('invalid')) expect([one, two]).toContain(winner);
      else expect(winner).toBe('tie');
    }
    expect(summary).toMatchObject({ records: 20, labelled: 20 });
    for (const key of ['flip_rate', 'first_rate', 'parse_failures']) expect(summary, key).toHaveProperty(key);
    const labels = lines<{ label: string }>(pairs).map(({ label }) => label);
    const right = records.filter(({ winner }, i) => winner === labels[i]).length;
    const verdicts = records.flatMap(({ votes }, i) => votes.filter(({ winner }) => winner === labels[i])).length;
    expect(summary).toMatchObject({ accuracy: right / 20, verdict_accuracy: verdicts / 40 });
    expect(stderr).toContain(`judge: wrote ${output} (${(5 * right).toFixed(1)}% of 20 labelled pairs right`);
  });

  it('counts verdicts it cannot read, and calls their pairs invalid', async () => {
    const output = join(root, 'mute.jsonl');
    const short = ['--judge-max-tokens', '2', '--json'];
    const { status, stderr, summary } = await stepward(
      ...['judge', '--model', MODEL, '--input', pairs, '--output', output, ...short],
    );
    expect(status, stderr).toBe(0);
    const records = lines<{ winner: string; votes: { winner: string; p_first: number | null }[] }>(output);
    for (const { winner, votes } of records) {
      expect([winner, ...votes.map((vote) => vote.winner)]).toEqual(['invalid', 'invalid', 'invalid']);
      expect(votes.map((vote) => vote.p_first)).toEqual([null, null]);
    }
    expect(summary).toMatchObject({
      accuracy: 0,
      verdict_accuracy: 0,
      flip_rate: null,
      first_rate: null,
      parse_failures: 40,
      parse_failure_rate: 1,
    });
  });

  it('keeps numeric ids', async () => {
    const output = join(root, 'numbered.jsonl');
    const some = lines<object>(pairs).slice(0, 2);
    const input = jsonl('numbered-pairs.jsonl', [
      { ...some[0], id: 5 },
      { ...some[1], id: '6' },
    ]);
    const { status } = await stepward(
      'judge',
      '--model',
      MODEL,
      '--input',
      input,
      '--output',
      output,
      '--judge',
      'readout',
    );
    expect(status).toBe(0);
    expect(lines<{ id: unknown }>(output).map(({ id }) => id)).toEqual([5, '6']);
  });
});

describe('stepward eval', () => {
  it('gives accuracy with an interval, and a line per problem', async () => {
    const output = join(root, 'eval.jsonl');
    const { status, stderr, summary } = await stepward(
      'eval',
      '--model',
      MODEL,
      '--data',
      problems,
      '--output',
      output,
      '--max-new-tokens',
      '64',
      '--json',
    );
    expect(status, stderr).toBe(0);
    const records = lines<{ correct: boolean }>(output);
    const correct = records.filter((record) => record.correct).length;
    expect(summary).toMatchObject({ n: 12, correct, accuracy: correct / 12 });
    const [low, high] = summary.interval as [number, number];
    expect(low <= correct / 12 && correct / 12 <= high).toBe(true);
  });

  it('writes its lines to stdout where no file is named, the summary last', async () => {
    const data = jsonl('two.jsonl', [{ ...lines<object>(problems)[0], id: 1 }, lines<object>(problems)[1] ?? {}]);
    const args = ['eval', '--model', MODEL, '--data', data, '--max-new-tokens', '64'];
    const plain = await stepward(...args);
    const json = await stepward(...args, '--json');
    expect([plain.status, json.status]).toEqual([0, 0]);
    const records = plain.stdout.trimEnd().split('\n');
    expect(records.map((line) => JSON.parse(line).id)).toEqual([1, 'search-3-1']);
    expect(json.stdout.trimEnd().split('\n').slice(0, -1)).toEqual(records);
    expect(json.summary).toMatchObject({ n: 2 });
  });

  it('takes the mean and the majority of several samples', async () => {
    const output = join(root, 'samples.jsonl');
    const { status, summary } = await stepward(
      'eval',
      '--model',
      MODEL,
      '--data',
      problems,
      '--output',
      output,
      '--samples',
      '3',
      '--max-new-tokens',
      '64',
      '--json',
    );
    expect(status).toBe(0);
    const records = lines<{ outputs: { correct: boolean }[] }>(output);
    const right = records.flatMap(({ outputs }) => outputs).filter(({ correct }) => correct).length;
    expect(records.every(({ outputs }) => outputs.length === 3)).toBe(true);
    expect(summary.accuracy).toBeCloseTo(right / 36, 12);
    expect(summary).toHaveProperty('majority.accuracy');
  });
});

const RECIPE = `
model: ${MODEL}
iterations: 1
problems: { source: { arithmetic: { split: search, count: 60 } }, per_iteration: 60 }
search: { width: 4, temperature: 0.8, max_steps: 6, max_step_tokens: 24 }
judge: { max_tokens: 80 }
update: { lr: 5.0e-5, batch_size: 8 }
guards: { on: warn }
evaluate:
  source: { arithmetic: { split: held-out, count: 20 } }
  judge_source: { arithmetic: { split: held-out, count: 10 } }
  max_tokens: 64
`;

describe('stepward train', () => {
  const recipe = join(root, 'small.yaml');
  writeFileSync(recipe, RECIPE);

  it('is resumable after Ctrl-C, ends with a table, and is node dist/train.js', async () => {
    const run = join(root, 'run');
    const cut = await start('train.js', [recipe, '--run', run], 'M1: accuracy');
    expect(cut.status, cut.stderr).toBe(130);
    expect(existsSync(join(run, 'M1/eval.json'))).toBe(true);
    expect(existsSync(join(run, 'M2/model'))).toBe(false);
    expect(cut.stderr).toContain('stepward: interrupted [CANCELLED]');
    expect(cut.stderr).toMatch(/to go on: stepward train --run \S*run --resume\n/);
    // Without the recipe: run.json knows it.
    const { status, stdout, stderr } = await start('train.js', ['--run', run, '--resume']);
    expect(status, stderr).toBe(0);
    expect(stdout).toMatch(/M1 .*\nM2 /);
    expect(stdout).toContain('report.html');
    for (const file of [
      'run.json',
      'metrics.jsonl',
      'report.html',
      'M2/search.jsonl',
      'M2/pairs.jsonl',
      'M2/train.jsonl',
      'M2/eval.json',
      'M2/model/model.safetensors',
    ]) {
      expect(existsSync(join(run, file)), file).toBe(true);
    }
    const whole = join(root, 'whole');
    const other = await stepward('train', recipe, '--run', whole, '--json');
    expect(other.status, other.stderr).toBe(0);
    expect((other.summary.models as object[]).length).toBe(2);
    const bytes = (name: string) =>
      [run, whole].map((directory) => readFileSync(join(directory, name)).toString('latin1'));
    for (const name of ['M2/search.jsonl', 'M2/pairs.jsonl', 'M2/solutions.jsonl', 'M2/model/model.safetensors']) {
      const [one, two] = bytes(name);
      expect(one === two, name).toBe(true);
    }
    const steps = (directory: string) => readLines<StepMetrics>(join(directory, 'M2/train.jsonl')).map(withoutTimes);
    expect(steps(run)).toEqual(steps(whole));
  });

  it('refuses an unknown key with the nearest right one', async () => {
    const { status, stderr } = await stepward('train', recipe, '--run', join(root, 'never'), '--set', 'search.widht=3');
    expect([status, stderr.includes('unknown key search.widht; did you mean search.width?')]).toEqual([2, true]);
    expect(existsSync(join(root, 'never'))).toBe(false);
  });
});
