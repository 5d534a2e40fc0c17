// Whole runs over the fake engine: what a run folder holds, the same bytes for the same seed, resume, guards.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type LoadedRecipe, parseRecipe } from '../../src/config/load.js';
import type { OpenRequest, RunHooks } from '../../src/loop/context.js';
import { policyOf } from '../../src/loop/policy.js';
import { type RunOptions, runRecipe } from '../../src/loop/run.js';
import { sliceOf, sliceRemark } from '../../src/loop/slices.js';
import { modelFormat } from '../../src/prompts/load.js';
import type { ModelMetrics } from '../../src/run/metrics.js';
import { FakeEngine, type FakeOptions } from '../helpers/fake-engine.js';
import { respondToSums, type SumsOptions } from '../helpers/sums.js';

const root = mkdtempSync(join(tmpdir(), 'stepward-run-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const jsonl = (records: object[]) => records.map((record) => `${JSON.stringify(record)}\n`).join('');
const sum = (i: number) => ({ id: `q${i}`, problem: `${i}+${i + 2}+${3 * i}`, answer: String(5 * i + 2) });
writeFileSync(join(root, 'problems.jsonl'), jsonl(Array.from({ length: 30 }, (_, i) => sum(i))));
writeFileSync(join(root, 'held.jsonl'), jsonl(Array.from({ length: 10 }, (_, i) => sum(i + 50))));
const pair = (i: number) => ({ id: `j${i}`, problem: sum(i).problem, steps: [], label: i % 2 ? 'a' : 'b' });
const pairs = Array.from({ length: 10 }, (_, i) => {
  const [right, wrong] = [`Step 1: ${i}+${i + 2}=${2 * i + 2}`, `Step 1: ${i}+${i + 2}=${2 * i + 3}`];
  return i % 2 ? { ...pair(i), a: right, b: wrong } : { ...pair(i), a: wrong, b: right };
});
writeFileSync(join(root, 'pairs.jsonl'), jsonl(pairs));
const ift = Array.from({ length: 8 }, (_, i) => ({
  problem: sum(i).problem,
  solution: `Step 1: ${i}+${i + 2}=${2 * i + 2}\nThe answer is \\boxed{0}`,
}));
writeFileSync(join(root, 'ift.jsonl'), jsonl(ift));
writeFileSync(join(root, 'eft.jsonl'), jsonl(pairs.map((record) => ({ ...record, critique: 'I added it up.' }))));
new FakeEngine({ respond: () => '' }).save(join(root, 'm1'));

const RECIPE = `
model: ./m1
iterations: 2
seed: 5
problems: { source: { file: problems.jsonl }, per_iteration: 10 }
search: { temperature: 1, max_steps: 6 }
update: { batch_size: 8 }
evaluate: { source: { file: held.jsonl }, judge_source: { file: pairs.jsonl } }
`;

function recipeOf(overrides: string[] = []): LoadedRecipe['recipe'] {
  return parseRecipe(RECIPE, join(root, 'recipe.yaml'), 'recipe.yaml', overrides);
}

let folders = 0;
interface Given extends SumsOptions, Partial<FakeOptions> {
  overrides?: string[];
  directory?: string;
  resume?: boolean;
  hooks?: RunHooks;
  opened?: OpenRequest[];
}

function run({ overrides, directory = join(root, `run${++folders}`), resume, hooks, opened, ...sums }: Given = {}): {
  directory: string;
  metrics: Promise<ModelMetrics[]>;
} {
  const options: RunOptions = {
    recipe: recipeOf(overrides),
    directory,
    ...(resume ? { resume } : {}),
    ...(hooks ? { hooks } : {}),
    machine: { versions: { stepward: '0', node: '0', torch: '0' }, device: 'cpu', cpu_capability: 'AVX2', threads: 1 },
    async open(request) {
      opened?.push(request);
      // Slips above a half: greedy answers are wrong until the skill has grown enough.
      const fake = { respond: respondToSums({ slip: 0.9, ...sums }), ...sums };
      const engine = request.initSeed === undefined ? FakeEngine.load(request.directory, fake) : new FakeEngine(fake);
      return policyOf(engine, engine.codec, request.format ?? modelFormat(request.directory));
    },
  };
  return { directory, metrics: runRecipe(options) };
}

/** Every file of a folder with its content, times left out. */
function contents(directory: string): Record<string, string> {
  const files: Record<string, string> = {};
  for (const name of readdirSync(directory, { recursive: true }) as string[]) {
    const path = join(directory, name);
    if (statSync(path).isDirectory()) continue;
    files[relative(directory, path)] = readFileSync(path, 'utf8')
      .replace(/"seconds": ?[\d.e-]+/g, '"seconds": 0')
      .replace(/"(\w+_per_second|peak_bytes)":[\d.e+]+/g, '"$1":0')
      .replace(/"(started|ended)": "[^"]+"/g, '"$1": ""');
  }
  return files;
}

const MADE_BY_SEARCH = [
  'eval.json',
  'model',
  'pairs.jsonl',
  'search.json',
  'search.jsonl',
  'solutions.jsonl',
  'train.json',
  'train.jsonl',
];

describe('a run', () => {
  it('leaves a complete folder and gets better', async () => {
    const { directory, metrics } = run();
    const lines = await metrics;
    expect(readdirSync(directory).sort()).toEqual(['M1', 'M2', 'M3', 'metrics.jsonl', 'run.json']);
    expect(readdirSync(join(directory, 'M1')).sort()).toEqual(['eval.json', 'model', 'solutions.jsonl']);
    for (const name of ['M2', 'M3']) expect(readdirSync(join(directory, name)).sort()).toEqual(MADE_BY_SEARCH);
    expect(lines.map(({ model, iteration }) => [model, iteration])).toEqual([
      ['M1', 1],
      ['M2', 2],
      ['M3', 3],
    ]);
    expect(lines[0]?.accuracy).toBe(0);
    expect(lines.at(-1)?.accuracy).toBe(1);
    expect(lines.map(({ judge_accuracy }) => judge_accuracy)).toEqual([1, 1, 1]);
    expect(lines[0]?.pairs).toBe(0);
    expect(lines[1]?.pairs).toBe(readFileSync(join(directory, 'M2/pairs.jsonl'), 'utf8').trim().split('\n').length);
    const written = readFileSync(join(directory, 'metrics.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(written).toEqual(lines);
    expect(Object.keys(written[0])).toEqual(
      'iteration model accuracy n judge_accuracy judge_flip_rate judge_first_rate pairs mean_steps mean_step_tokens seconds'.split(
        ' ',
      ),
    );
    const manifest = JSON.parse(readFileSync(join(directory, 'run.json'), 'utf8'));
    expect(manifest).toMatchObject({ seed: 5, state: 'finished', recipe: { search: { width: 6, top_p: 0.95 } } });
    const steps = readFileSync(join(directory, 'M2/train.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(steps[0]).toMatchObject({ step: 1, loss: expect.closeTo(Math.LN2, 6), 'rewards/margins': 0 });
  });

  it('writes the same bytes for the same seed, and others for another', async () => {
    const [one, two, other] = [run(), run(), run({ overrides: ['seed=6'] })];
    await Promise.all([one.metrics, two.metrics, other.metrics]);
    expect(contents(two.directory)).toEqual(contents(one.directory));
    expect(contents(other.directory)['M2/search.jsonl']).not.toEqual(contents(one.directory)['M2/search.jsonl']);
  });

  it('keeps gold answers out of everything the model sees', async () => {
    const { directory, metrics } = run();
    await metrics;
    const changed = join(root, 'no-answers.jsonl');
    const problems = readFileSync(join(root, 'problems.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    writeFileSync(changed, jsonl(problems.map(({ answer: _, ...record }) => record)));
    const blind = run({ overrides: [`problems.source.file=${changed}`] });
    await blind.metrics;
    const strip = (text: string) => text.replace(/,"gold":"[^"]*","correct":(true|false)/g, '');
    expect(strip(contents(directory)['M3/search.jsonl'] ?? '')).toEqual(contents(blind.directory)['M3/search.jsonl']);
    expect(contents(directory)['M3/pairs.jsonl']).toEqual(contents(blind.directory)['M3/pairs.jsonl']);
  });

  it('starts from random weights and trains M1 where the recipe has sft', async () => {
    const opened: OpenRequest[] = [];
    const overrides = [
      `model={config: ${root}/m1, seed: 9}`,
      'iterations=0',
      `sft={ift: {file: ${root}/ift.jsonl}, eft: {file: ${root}/eft.jsonl}, epochs: 1, batch_size: 6}`,
    ];
    const { directory, metrics } = run({ overrides, opened });
    expect((await metrics).length).toBe(1);
    expect(opened[0]).toMatchObject({ directory: join(root, 'm1'), initSeed: 9 });
    expect(readdirSync(join(directory, 'M1')).sort()).toEqual([
      'eval.json',
      'model',
      'solutions.jsonl',
      'train.json',
      'train.jsonl',
    ]);
    expect(JSON.parse(readFileSync(join(directory, 'M1/train.json'), 'utf8'))).toMatchObject({
      steps: 3,
      examples: 18,
    });
  });

  it('opens M1 as the reference where asked', async () => {
    const opened: OpenRequest[] = [];
    const { directory, metrics } = run({ overrides: ['update.reference=m1'], opened });
    await metrics;
    const m1 = join(directory, 'M1/model');
    // M1 for its evaluation and as the source of M2; once more as the reference of M3.
    expect(opened.filter((request) => request.directory === m1).length).toBe(3);
  });

  it('updates without a reference where the loss has none', async () => {
    const { directory, metrics } = run({ overrides: ['update.loss=simpo', 'iterations=1'] });
    await metrics;
    const [step] = readFileSync(join(directory, 'M2/train.jsonl'), 'utf8').split('\n');
    // Every token has -0.25 under the fake engine; beta is simpo's own.
    expect(JSON.parse(step as string)).toMatchObject({ 'rewards/chosen': -0.5, 'rewards/rejected': -0.5 });
    expect(JSON.parse(readFileSync(join(directory, 'M2/train.json'), 'utf8'))).toMatchObject({ reference_tokens: 0 });
  });
});

describe('records of a run', () => {
  const lines = (path: string) =>
    readFileSync(path, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));

  it('keep numeric ids as numbers', async () => {
    const numbered = (name: string, from: number, count: number) => {
      const path = join(root, name);
      writeFileSync(path, jsonl(Array.from({ length: count }, (_, i) => ({ ...sum(i), id: from + i }))));
      return path;
    };
    const { directory, metrics } = run({
      overrides: [
        'iterations=1',
        `problems.source.file=${numbered('numbered.jsonl', 100, 12)}`,
        `evaluate.source.file=${numbered('numbered-held.jsonl', 500, 3)}`,
      ],
    });
    await metrics;
    for (const file of ['search.jsonl', 'pairs.jsonl', 'solutions.jsonl']) {
      const ids = lines(join(directory, 'M2', file)).map(({ id }) => id);
      expect(ids.length, file).toBeGreaterThan(0);
      for (const id of ids) expect(Number.isInteger(id), file).toBe(true);
    }
    expect(lines(join(directory, 'M2/search.jsonl')).every(({ gold }) => gold !== undefined)).toBe(true);
    expect(lines(join(directory, 'M2/train.jsonl')).length).toBeGreaterThan(0);
    expect(Object.keys(JSON.parse(readFileSync(join(directory, 'M2/train.json'), 'utf8')))).toEqual(
      'steps pairs tokens computed_tokens reference_tokens packing_check final_loss seconds'.split(' '),
    );
  });

  // A solving prompt is some 220 tokens and its problem, a judge prompt some 1,100 and its steps.
  it.each([
    ['problems.source.file=PATH', { problem: '9'.repeat(900) }, 1000],
    ['evaluate.source.file=PATH', { problem: '9'.repeat(900), answer: 1 }, 1000],
    ['evaluate.judge_source.file=PATH', { problem: '1+1', a: 'y', b: '9'.repeat(900), label: 'a' }, 1500],
    ['sft={ift: {file: PATH}}', { problem: '1+1', steps: ['9'.repeat(1500)] }, 1500],
  ])('that do not fit the model are refused before any work: %s', async (override, long, maxPositions) => {
    const path = join(root, 'long.jsonl');
    writeFileSync(path, jsonl([{ problem: '1+1', steps: ['x'], answer: 2, a: 'y', b: 'z', label: 'a' }, long]));
    const { directory, metrics } = run({ overrides: [override.replace('PATH', path)], maxPositions });
    await expect(metrics).rejects.toMatchObject({ code: 'CONTEXT_TOO_LONG', exitCode: 2 });
    await expect(metrics).rejects.toThrow(
      /long\.jsonl:2: expected at most \d+ tokens, the model's positions, got \d+ \(/,
    );
    expect(existsSync(join(directory, 'M1'))).toBe(false);
  });
});

describe('resume', () => {
  it('goes on at the stage where it was interrupted, to the same bytes', async () => {
    const whole = run();
    await whole.metrics;
    for (const stage of ['M1 evaluate', 'M2 search', 'M2 update', 'M2 evaluate judge', 'M3 search', 'M3 update']) {
      const controller = new AbortController();
      const cut = run({ hooks: { signal: controller.signal, progress: (now) => now === stage && controller.abort() } });
      await expect(cut.metrics).rejects.toMatchObject({ code: 'CANCELLED', exitCode: 130 });
      const manifest = JSON.parse(readFileSync(join(cut.directory, 'run.json'), 'utf8'));
      expect([manifest.state, manifest.reason]).toEqual(['interrupted', undefined]);
      const searched = join(cut.directory, 'M2/search.jsonl');
      const before = existsSync(searched) ? statSync(searched).mtimeMs : undefined;
      await run({ directory: cut.directory, resume: true }).metrics;
      if (before !== undefined) expect(statSync(searched).mtimeMs).toBe(before);
      expect(contents(cut.directory)).toEqual(contents(whole.directory));
    }
  });

  it('can add iterations to a finished run', async () => {
    const short = run({ overrides: ['iterations=1'] });
    await short.metrics;
    await run({ directory: short.directory, resume: true }).metrics;
    const whole = run();
    await whole.metrics;
    expect(contents(short.directory)).toEqual(contents(whole.directory));
  });

  it('refuses a folder that holds a run, and another recipe', async () => {
    const first = run({ overrides: ['iterations=0'] });
    await first.metrics;
    await expect(run({ directory: first.directory }).metrics).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    const other = run({ directory: first.directory, resume: true, overrides: ['search.width=4'] });
    await expect(other.metrics).rejects.toThrow(/search\.width: expected 6 as in .*run\.json, got 4/);
  });
});

describe('a run whose input is wrong', () => {
  const lacking = ['evaluate.source.file=nowhere.jsonl'];

  it('leaves no folder, so that it can be begun again under the same name', async () => {
    const { directory, metrics } = run({ overrides: lacking });
    await expect(metrics).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    expect(existsSync(directory)).toBe(false);
    await run({ directory, overrides: ['iterations=0'] }).metrics;
    expect(readdirSync(directory)).toContain('M1');
  });

  it("takes nothing of others' from the folder it was given", async () => {
    const directory = mkdtempSync(join(root, 'given-'));
    writeFileSync(join(directory, 'notes.txt'), 'mine');
    await expect(run({ directory, overrides: lacking }).metrics).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    expect(readdirSync(directory)).toEqual(['notes.txt']);
  });

  it('leaves what an earlier run made', async () => {
    const first = run({ overrides: ['iterations=0'] });
    await first.metrics;
    rmSync(join(first.directory, 'M1', 'eval.json'));
    const kept = join(root, 'held.jsonl');
    const held = readFileSync(kept);
    rmSync(kept);
    try {
      const again = run({ directory: first.directory, resume: true, overrides: ['iterations=0'] });
      await expect(again.metrics).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    } finally {
      writeFileSync(kept, held);
    }
    expect(JSON.parse(readFileSync(join(first.directory, 'run.json'), 'utf8')).state).toBe('failed');
  });
});

describe('guards', () => {
  const firstShown: SumsOptions['judge'] = () => 'the first [[A]]';

  it('stop before a judge at chance trains anything, with the folder complete up to there', async () => {
    const { directory, metrics } = run({ judge: firstShown });
    await expect(metrics).rejects.toMatchObject({ code: 'GUARD_STOPPED', exitCode: 1 });
    expect(readdirSync(directory).sort()).toEqual(['M1', 'metrics.jsonl', 'run.json']);
    const manifest = JSON.parse(readFileSync(join(directory, 'run.json'), 'utf8'));
    expect([manifest.state, manifest.reason]).toEqual(['stopped', expect.stringContaining('judge accuracy is 50.0%')]);
  });

  it('warn and go on where asked', async () => {
    const warnings: string[] = [];
    const judge: SumsOptions['judge'] = ({ a, b }) => (a > b ? 'x [[A]]' : 'y [[B]]');
    const { metrics } = run({ judge, overrides: ['guards.on=warn'], hooks: { warn: (line) => warnings.push(line) } });
    expect((await metrics).length).toBe(3);
    expect(warnings.some((line) => line.includes('judge accuracy'))).toBe(true);
  });

  it('stop where judge accuracy falls fast', async () => {
    const judge: SumsOptions['judge'] = ({ a, b }, { skill, random }) => {
      const good = respondToSums();
      const prompt = `You are a fair judge\nAssistant A's Next Step]\n${a}\n[The End\nAssistant B's Next Step]\n${b}\n[The End`;
      return skill > 0 && a.length % 3 === 0 ? 'no idea' : good(prompt, { random, temperature: 0, skill });
    };
    const { metrics } = run({ judge, overrides: ['guards.judge_accuracy=0'] });
    await expect(metrics).rejects.toThrow(/M2: held-out judge accuracy fell from 100.0% to/);
  });

  it('stop where a search makes no pairs', async () => {
    const { metrics } = run({ slip: 0 });
    await expect(metrics).rejects.toThrow(/M2: the search made no pairs, so there is nothing to train on$/);
  });

  it('say where the judge is not understood rather than wrong', async () => {
    const mute: SumsOptions['judge'] = () => 'no idea';
    const unread = /20 of 20 verdicts of the judge could not be read: its critiques name no winner within 40 tokens/;
    const stopped = run({ judge: mute, overrides: ['judge.max_tokens=40'] });
    await expect(stopped.metrics).rejects.toThrow(unread);
    const searched = run({ judge: mute, overrides: ['judge.max_tokens=40', 'guards.on=warn'] });
    await expect(searched.metrics).rejects.toThrow(/M2: the search made no pairs.*; \d+ of \d+ verdicts of the judge/);
  });
});

it('a run that was begun before a key existed goes on with its default', async () => {
  const { directory, metrics } = run({ overrides: ['iterations=0'] });
  await metrics;
  const path = join(directory, 'run.json');
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as { recipe: { search: Record<string, unknown> } };
  delete manifest.recipe.search.min_p;
  writeFileSync(path, JSON.stringify(manifest));
  const other = run({ directory, resume: true, overrides: ['iterations=0', 'search.min_p=0.1'] });
  await expect(other.metrics).rejects.toThrow('search.min_p: expected 0 as in');
  await run({ directory, resume: true, overrides: ['iterations=0'] }).metrics;
});

it('a run warns once of problems that are not there, and not when it is over', async () => {
  const warned: string[] = [];
  const hooks: RunHooks = { warn: (line) => warned.push(line) };
  const overrides = ['iterations=1', 'problems.per_iteration=99'];
  const { directory, metrics } = run({ overrides, hooks });
  await metrics;
  const told = () => warned.filter((line) => line.includes('99 asked for, and the source has 30'));
  expect(told()).toHaveLength(1);
  await run({ directory, resume: true, overrides, hooks }).metrics;
  expect(told()).toHaveLength(1);
});

describe('problems of an iteration', () => {
  const placed = (i: number) => ({ place: `problems.jsonl:${i + 1}`, record: { id: i, problem: 'x' } });
  const all = { problems: Array.from({ length: 10 }, (_, i) => placed(i)), answers: new Map() };
  const ids = (overrides: string[], n: number) =>
    sliceOf(all, recipeOf(overrides), n).problems.map(({ record }) => record.id);

  it('are fresh while there are any, and none twice', () => {
    const own = ['problems.per_iteration=[3, 5]'];
    const [one, two] = [ids(own, 1), ids(own, 2)];
    expect([one.length, two.length]).toEqual([3, 5]);
    expect(new Set([...one, ...two]).size).toBe(8);
    const three = ids(own, 3);
    expect(new Set(three).size).toBe(5);
    expect(three.filter((id) => !one.includes(id) && !two.includes(id)).length).toBe(2);
  });

  it('are at most all there are', () => {
    expect(new Set(ids(['problems.per_iteration=99'], 1)).size).toBe(10);
  });

  it('that are asked for and are not there are told of before the run', () => {
    const remark = (overrides: string[]) => sliceRemark(all, recipeOf(overrides));
    expect(remark(['problems.per_iteration=10'])).toBeUndefined();
    expect(remark(['problems.per_iteration=[4, 11]'])).toContain('up to 11 asked for, and the source has 10');
    expect(remark(['problems.per_iteration=12'])).toContain('per_iteration: 12 asked for');
    // Of iterations that are not run nothing is said.
    expect(remark(['problems.per_iteration=[4, 5, 11]'])).toBeUndefined();
  });
});
