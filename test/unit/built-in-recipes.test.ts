// The recipes that come with the project: both are valid, the small model is in its folder in the form they say, and
// training, search and evaluation take their problems from splits of their own.

import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { loadRecipe } from '../../src/config/load.js';
import { modelFormat } from '../../src/prompts/load.js';

const folder = fileURLToPath(new URL('../../recipes', import.meta.url));
const model = join(folder, 'arithmetic-m1');

describe('built-in recipes', () => {
  it('arithmetic.yaml goes from the kept M1 to M3 on splits of their own', () => {
    const { recipe } = loadRecipe(join(folder, 'arithmetic.yaml'));
    expect(recipe.model).toBe(model);
    expect(recipe.sft).toBeUndefined();
    expect(recipe.iterations).toBe(2);
    expect(recipe.problems?.source.arithmetic?.split).toBe('search');
    expect(recipe.evaluate.source?.arithmetic?.split).toBe('held-out');
    expect(recipe.evaluate.judge_source?.arithmetic?.split).toBe('held-out');
    const perIteration = [recipe.problems?.per_iteration ?? []].flat();
    const needed = perIteration.length === 1 ? 2 * (perIteration[0] as number) : perIteration.reduce((a, b) => a + b);
    expect(recipe.problems?.source.arithmetic?.count).toBeGreaterThanOrEqual(needed);
  });

  it('arithmetic-m1.yaml starts from random weights of the same folder, on the training split alone', () => {
    const { recipe } = loadRecipe(join(folder, 'arithmetic-m1.yaml'));
    expect(recipe.model).toEqual({ config: model, seed: expect.any(Number) });
    expect(recipe.iterations).toBe(0);
    expect(recipe.sft?.ift.arithmetic?.split).toBe('train');
    expect(recipe.sft?.eft?.arithmetic?.split).toBe('train');
    expect(recipe.evaluate.source?.arithmetic?.split).toBe('held-out');
  });

  it('the kept M1 is a Hugging Face folder of at most 4 MB whose weights fit its config', () => {
    const size = readdirSync(model).reduce((bytes, file) => bytes + statSync(join(model, file)).size, 0);
    expect(size).toBeLessThanOrEqual(4 * 1024 * 1024);
    const config = JSON.parse(readFileSync(join(model, 'config.json'), 'utf8')) as Record<string, number>;
    const file = readFileSync(join(model, 'model.safetensors'));
    const header = JSON.parse(file.subarray(8, 8 + Number(file.readBigUInt64LE(0))).toString('utf8')) as Record<
      string,
      { dtype: string; shape: number[] }
    >;
    expect(header['model.embed_tokens.weight']).toMatchObject({
      dtype: 'F32',
      shape: [config.vocab_size, config.hidden_size],
    });
    expect(header['lm_head.weight']).toBeUndefined();
    const layers = Object.keys(header).filter((name) => name.endsWith('.mlp.down_proj.weight'));
    expect(layers).toHaveLength(config.num_hidden_layers as number);
  });

  it('the kept M1 brings the format it was trained with', () => {
    const format = modelFormat(model);
    expect(format.solve).toBe('{problem}\n');
    expect(format.answer.markers).toContain('Answer:');
    expect(format.verdicts).toEqual({ a: '[[A]]', b: '[[B]]' });
  });
});
