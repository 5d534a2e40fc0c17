// docs/files.md against the files that a run over the fake engine leaves: every file and every key of it, both ways.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseRecipe } from '../../src/config/load.js';
import { policyOf } from '../../src/loop/policy.js';
import { runRecipe } from '../../src/loop/run.js';
import { modelFormat } from '../../src/prompts/load.js';
import { FakeEngine } from '../helpers/fake-engine.js';
import { block, codes, readPage, rows, section } from '../helpers/markdown.js';
import { respondToSums } from '../helpers/sums.js';

const page = readPage('docs/files.md');
const root = mkdtempSync(join(tmpdir(), 'stepward-docs-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const RECIPE = `
model: ./m0
iterations: 1
sft: { ift: { file: ift.jsonl } }
problems: { source: { file: problems.jsonl }, per_iteration: 10 }
search: { temperature: 1, max_steps: 6 }
evaluate: { source: { file: problems.jsonl }, judge_source: { file: pairs.jsonl } }
`;

beforeAll(async () => {
  const write = (name: string, records: object[]) =>
    writeFileSync(join(root, name), records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  const problems = Array.from({ length: 20 }, (_, i) => ({ problem: `${i}+${i + 2}+${3 * i}`, answer: 5 * i + 2 }));
  write('problems.jsonl', problems);
  write('ift.jsonl', [{ problem: '1+2+3', steps: ['Step 1: 1+2=3', 'The answer is \\boxed{6}'] }]);
  write('pairs.jsonl', [{ problem: '1+2+3', a: 'Step 1: 1+2=3', b: 'Step 1: 1+2=4', label: 'a' }]);
  new FakeEngine({ respond: () => '' }).save(join(root, 'm0'));
  await runRecipe({
    recipe: parseRecipe(RECIPE, join(root, 'recipe.yaml')),
    directory: join(root, 'run'),
    machine: { versions: { stepward: '0', node: '0', torch: '0' }, device: 'cpu', cpu_capability: 'AVX2', threads: 1 },
    async open({ directory, format }) {
      const engine = FakeEngine.load(directory, { respond: respondToSums({ slip: 0.5 }) });
      return policyOf(engine, engine.codec, format ?? modelFormat(directory));
    },
  });
});

/** The JSON values of a run's file, of every model that has it. */
function valuesOf(name: string): unknown[] {
  const files = (readdirSync(join(root, 'run'), { recursive: true }) as string[]).filter((path) =>
    `/${path}`.endsWith(`/${name}`),
  );
  expect(files.length).toBeGreaterThan(0);
  return files.flatMap((path) => {
    const text = readFileSync(join(root, 'run', path), 'utf8');
    return name.endsWith('.jsonl')
      ? text
          .trim()
          .split('\n')
          .map((line): unknown => JSON.parse(line))
      : [JSON.parse(text) as unknown];
  });
}

/** Keys of step 1, 2, ... are explained as those of step k. */
const nameOf = (key: string): string => key.replace(/step_\d+$/, 'step_k');

/** Keys at any depth; the recipe's are recipe.md's. */
function keysIn(value: unknown, into = new Set<string>()): Set<string> {
  if (Array.isArray(value)) for (const inner of value) keysIn(inner, into);
  else if (typeof value === 'object' && value !== null) {
    for (const [key, inner] of Object.entries(value)) {
      into.add(nameOf(key));
      if (key !== 'recipe') keysIn(inner, into);
    }
  }
  return into;
}

describe('docs/files.md', () => {
  it('lists every file', () => {
    const listed = [...block(page, 'The files of a run').matchAll(/^ *([\w.]+)/gm)].map((match) => match[1]);
    const made = ['run', 'run/M1', 'run/M2'].flatMap((folder) => readdirSync(join(root, folder)));
    // report.html is made from the folder by the command.
    expect([...new Set([...made, 'report.html'])].sort()).toEqual([...new Set([...listed, 'M2'])].sort());
  });

  it.each([
    'run.json',
    'metrics.jsonl',
    'search.jsonl',
    'pairs.jsonl',
    'search.json',
    'train.jsonl',
    'train.json',
    'eval.json',
    'solutions.jsonl',
  ])('explains every key of %s', (name) => {
    const text = section(page, name);
    const found = keysIn(valuesOf(name));
    const explained = rows(text).flatMap(([cell = '']) => codes(cell));
    const outer = valuesOf(name).flatMap((value) => Object.keys(value as object).map(nameOf));
    // solutions.jsonl is explained in a sentence; so are some inner keys of the others.
    if (explained.length > 0) expect(explained).toEqual(expect.arrayContaining(outer));
    expect([...found].filter((key) => !codes(text).includes(key))).toEqual([]);
    // A run that nothing stopped has no reason.
    expect(explained.filter((key) => !found.has(key) && key !== 'reason')).toEqual([]);
  });
});
