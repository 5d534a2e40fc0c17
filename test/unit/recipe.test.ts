// Recipes: defaults, overrides, paths, and errors that name their key and place.

import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkRecipe, loadRecipe, parseRecipe } from '../../src/config/load.js';
import { editDistance, nearest } from '../../src/config/nearest.js';
import { StepwardError } from '../../src/errors.js';

const MINIMAL = `model: ./m1
problems:
  source: { file: problems.jsonl }
`;

function failure(text: string, overrides: string[] = []): StepwardError {
  try {
    parseRecipe(text, '/recipes/mine.yaml', 'mine.yaml', overrides);
  } catch (error) {
    if (error instanceof StepwardError) return error;
    throw error;
  }
  throw new Error('expected the recipe to be refused');
}

describe('recipes', () => {
  it('fills in the defaults of the paper', () => {
    const recipe = parseRecipe(MINIMAL, '/recipes/mine.yaml');
    expect(recipe.search).toMatchObject({ width: 6, temperature: 0.5, top_p: 0.95, max_steps: 20 });
    expect(recipe.problems?.per_iteration).toEqual([400, 800, 1200]);
    expect(recipe.update).toMatchObject({
      epochs: 1,
      lr: 5e-7,
      batch_size: 32,
      loss: 'sigmoid',
      reference: 'previous',
    });
    expect(recipe.judge).toMatchObject({ mode: 'critique', orders: 'both' });
    expect([recipe.name, recipe.iterations]).toEqual(['mine', 3]);
  });

  it('gives each loss its own beta, and keeps it in the resolved recipe', () => {
    const update = (lines: string) => parseRecipe(`${MINIMAL}update: { ${lines} }\n`, '/r.yaml').update;
    expect(update('')).toMatchObject({ loss: 'sigmoid', beta: 0.4, gamma: 0.5, mix: 1 });
    expect(update('loss: simpo')).toMatchObject({ beta: 2, gamma: 0.5 });
    expect(update('loss: simpo, beta: 5, gamma: 1.5, mix: 0.9')).toMatchObject({ beta: 5, gamma: 1.5, mix: 0.9 });
    const recipe = parseRecipe(`${MINIMAL}update: { loss: simpo }\n`, '/r.yaml');
    expect(checkRecipe(JSON.parse(JSON.stringify(recipe)), '/run.json')).toEqual(recipe);
  });

  it('takes paths from where the recipe lies', () => {
    const recipe = parseRecipe(`${MINIMAL}evaluate: { source: { file: ../held.jsonl } }\n`, '/recipes/mine.yaml');
    expect([recipe.model, recipe.problems?.source.file, recipe.evaluate.source?.file]).toEqual([
      '/recipes/m1',
      '/recipes/problems.jsonl',
      '/held.jsonl',
    ]);
  });

  it('takes paths of overrides from where the command runs', () => {
    const text = `${MINIMAL}format: own.yaml\nevaluate: { source: { file: held.jsonl } }\n`;
    const recipe = parseRecipe(text, '/recipes/mine.yaml', 'mine.yaml', [
      'model=./m2',
      'problems={source: {file: other.jsonl}}',
      'evaluate.judge_source.file=/pairs.jsonl',
    ]);
    const here = (name: string) => `${process.cwd()}/${name}`;
    expect([recipe.model, recipe.problems?.source.file]).toEqual([here('m2'), here('other.jsonl')]);
    expect([recipe.format, recipe.evaluate.source?.file, recipe.evaluate.judge_source?.file]).toEqual([
      '/recipes/own.yaml',
      '/recipes/held.jsonl',
      '/pairs.jsonl',
    ]);
  });

  it('says how to replace a source of the other kind', () => {
    const made = 'model: x\nproblems: { source: { arithmetic: { split: search, count: 1 } } }\n';
    expect(failure(made, ['problems.source.file=x.jsonl']).message).toContain(
      'problems.source: expected either file or arithmetic, got both; --set problems.source={file: ...} replaces',
    );
    const recipe = parseRecipe(made, '/r.yaml', 'r.yaml', ['problems.source={file: /x.jsonl}']);
    expect(recipe.problems?.source).toEqual({ file: '/x.jsonl' });
  });

  it('reads a resolved recipe as it was', () => {
    const recipe = parseRecipe(MINIMAL, '/recipes/mine.yaml');
    const written: unknown = JSON.parse(JSON.stringify(recipe));
    expect(checkRecipe(written, '/runs/mine/run.json')).toEqual(recipe);
    expect(() => checkRecipe({ ...recipe, widht: 1 }, '/r/run.json')).toThrow('/r/run.json: unknown key widht');
  });

  it('overrides keys, and makes the maps on the way', () => {
    const recipe = parseRecipe(MINIMAL, '/r.yaml', 'r.yaml', [
      'search.width=4',
      'update.lora.rank=8',
      'seed=7',
      'problems.per_iteration=[1, 2]',
    ]);
    expect([recipe.search.width, recipe.update.lora?.rank, recipe.seed, recipe.problems?.per_iteration]).toEqual([
      4,
      8,
      7,
      [1, 2],
    ]);
  });

  it.each([
    ['search: { widht: 4 }', 'mine.yaml:4: unknown key search.widht; did you mean search.width?'],
    ['serach: {}', 'mine.yaml:4: unknown key serach; did you mean search?'],
    ['update:\n  learning_rate: 1\n  lrr: 2', 'mine.yaml:6: unknown key update.lrr; did you mean update.lr?'],
    ['search: { width: six }', 'mine.yaml:4: search.width: expected a number, got "six"'],
    ['search: { width: 1 }', 'mine.yaml:4: search.width: expected at least 2, got 1'],
    ['search: { width: 2.5 }', 'mine.yaml:4: search.width: expected a whole number, got 2.5'],
    ['judge: { mode: guess }', 'mine.yaml:4: judge.mode: expected "critique" or "readout", got "guess"'],
    ['update: { beta: -0.1 }', 'mine.yaml:4: update.beta: expected more than 0, got -0.1'],
    ['update: { label_smoothing: 0.5 }', 'mine.yaml:4: update.label_smoothing: expected less than 0.5, got 0.5'],
    ['update: { mix: 1.5 }', 'mine.yaml:4: update.mix: expected at most 1, got 1.5'],
    ['update: { gamma: -1 }', 'mine.yaml:4: update.gamma: expected at least 0, got -1'],
    ['update: { gama: 1 }', 'mine.yaml:4: unknown key update.gama; did you mean update.gamma?'],
    [
      'update: { loss: simpo, reference: m1 }',
      'mine.yaml:4: update.reference: expected previous beside the loss simpo, which has no reference, got "m1"',
    ],
    ['update: { lora: { alpha: 2 } }', 'mine.yaml:4: update.lora.rank: expected a number, which is missing'],
    ['evaluate: { source: {} }', 'mine.yaml:4: evaluate.source: expected either file or arithmetic, found neither'],
    [
      'evaluate: { source: { arithmetic: { split: test, count: 1 } } }',
      'evaluate.source.arithmetic.split: expected "train" or "search" or "held-out"',
    ],
    ['format: { step_delimeter: x }', 'unknown key format.step_delimeter; did you mean format.step_delimiter?'],
    [
      'format: { judge: "{problem} {a} {b}" }',
      'format.judge: expected the slot {steps} exactly once, found it 0 times',
    ],
    ['search: { temperature: 0 }', 'search.temperature: expected more than 0, got 0'],
  ])('%s', (lines, message) => {
    const error = failure(`${MINIMAL}${lines}\n`);
    expect(error.message).toContain(message);
    expect([error.code, error.exitCode]).toEqual(['INVALID_CONFIG', 2]);
  });

  it('names what is missing, broken or of the wrong shape', () => {
    expect(failure('problems: {}').message).toContain('model: expected');
    expect(failure('model: x').message).toContain('problems: expected a map of keys where iterations is above 0');
    expect(failure('model: [').message).toContain('mine.yaml:1: expected YAML');
    expect(failure('- a').message).toContain('expected a map of keys at the top');
    expect(failure(`model: { config: x, sed: 1 }\n${MINIMAL.split('\n').slice(1).join('\n')}`).message).toContain(
      'unknown key model.sed; did you mean model.seed?',
    );
  });

  it('names the override an error comes from', () => {
    expect(failure(MINIMAL, ['search.widht=4']).message).toContain(
      '--set search.widht: unknown key search.widht; did you mean search.width?',
    );
    expect(failure(MINIMAL, ['serch.width=4']).message).toContain(
      '--set serch.width: unknown key serch; did you mean search?',
    );
    expect(failure(MINIMAL, ['search.width=x']).message).toContain(
      '--set search.width: search.width: expected a number, got "x"',
    );
    expect(failure(MINIMAL, ['width']).message).toContain('--set: expected key=value, got "width"');
  });

  it('reads every recipe of the project', () => {
    const recipes = readdirSync('recipes').filter((name) => name.endsWith('.yaml'));
    expect(recipes.length).toBeGreaterThan(0);
    for (const name of recipes) expect(loadRecipe(`recipes/${name}`).recipe.name).toBe(name.replace('.yaml', ''));
  });

  it('says which file is missing', () => {
    expect(() => loadRecipe('nowhere.yaml')).toThrow(/nowhere.yaml: no such file/);
  });
});

describe('nearest names', () => {
  it('counts edits, swaps as one', () => {
    expect([editDistance('', 'abc'), editDistance('kitten', 'sitting'), editDistance('widht', 'width')]).toEqual([
      3, 3, 1,
    ]);
  });

  it('ignores case and dashes', () => {
    expect(nearest('Max-Steps', ['max_step_tokens', 'max_steps'])).toBe('max_steps');
    expect(nearest('x', [])).toBeUndefined();
  });
});
