// Which recipe and run folder the arguments of `train` mean.

import { mkdirSync, mkdtempSync, realpathSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { chooseRun } from '../../src/commands/train-recipe.js';

const root = realpathSync(mkdtempSync(join(tmpdir(), 'stepward-train-')));
const before = process.cwd();
process.chdir(root);
afterAll(() => {
  process.chdir(before);
  rmSync(root, { recursive: true, force: true });
});

mkdirSync(join(root, 'recipes'));
writeFileSync(
  join(root, 'recipes/mine.yaml'),
  'model: ./m1\nproblems: { source: { file: p.jsonl } }\nsearch: { width: 3 }\n',
);
const mine = join(root, 'recipes/mine.yaml');

/** A run folder as `train` leaves it, started from mine.yaml; `age`: seconds since run.json was written. */
function leaveRun(directory: string, age: number, overrides: string[] = []): string {
  const { recipe } = chooseRun(mine, { set: overrides });
  const path = join(root, directory);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, 'run.json'), JSON.stringify({ recipe }));
  const when = Date.now() / 1000 - age;
  utimesSync(join(path, 'run.json'), when, when);
  return path;
}

describe('train without --resume', () => {
  it('takes the built-in recipe, or the one given, into a fresh folder', () => {
    expect(chooseRun(undefined, {})).toMatchObject({
      recipe: { name: 'arithmetic' },
      directory: join(root, 'runs/arithmetic'),
    });
    expect(chooseRun(mine, {})).toMatchObject({ recipe: { name: 'mine' }, directory: join(root, 'runs/mine') });
    expect(chooseRun(mine, { run: 'here' }).directory).toBe(join(root, 'here'));
  });

  it('takes --model from the working directory, whatever its name looks like in YAML', () => {
    expect(chooseRun(mine, {}).recipe.model).toBe(join(root, 'recipes/m1'));
    for (const model of ['models/own', '7', 'a: b', '#1']) {
      expect(chooseRun(mine, { model }).recipe.model).toBe(join(root, model));
    }
    expect(chooseRun(mine, { model: '/abs/m', seed: 3 }).recipe).toMatchObject({ model: '/abs/m', seed: 3 });
  });
});

describe('train --resume', () => {
  it('without a recipe goes on with the one in run.json', () => {
    const directory = leaveRun('elsewhere', 0, ['search.width=5', 'model=m7']);
    const chosen = chooseRun(undefined, { run: 'elsewhere', resume: true });
    expect(chosen).toMatchObject({
      directory,
      recipe: { name: 'mine', search: { width: 5 }, model: join(root, 'm7') },
    });
    expect(chosen.recipe.problems?.source.file).toBe(join(root, 'recipes/p.jsonl'));
    expect(chooseRun(undefined, { run: 'elsewhere', resume: true, set: ['guards.on=warn'] }).recipe.guards.on).toBe(
      'warn',
    );
  });

  it('alone goes on with the run that was written last', () => {
    leaveRun('runs/mine', 100);
    const latest = leaveRun('runs/other', 10);
    leaveRun('runs/mine-2', 50);
    writeFileSync(join(root, 'runs/notes.txt'), '');
    expect(chooseRun(undefined, { resume: true }).directory).toBe(latest);
    expect(chooseRun(mine, { resume: true }).directory).toBe(join(root, 'runs/mine-2'));
  });

  it('says what is missing where there is no run', () => {
    const missing = expect.objectContaining({ code: 'FILE_NOT_FOUND', exitCode: 2 });
    expect(() => chooseRun(undefined, { run: 'nowhere', resume: true })).toThrow(missing);
    expect(() => chooseRun(undefined, { run: 'nowhere', resume: true })).toThrow('expected a run to resume');
  });
});
