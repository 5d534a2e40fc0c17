// A recipe file with --set overrides, checked against the schema, with its paths made absolute.

import { readFileSync } from 'node:fs';
import { basename, dirname, extname, resolve } from 'node:path';
import { type Document, LineCounter, parse, parseDocument } from 'yaml';
import { fileError } from '../data/jsonl.js';
import { StepwardError } from '../errors.js';
import { describeIssues, keysAt, type Path } from './issues.js';
import { nearest } from './nearest.js';
import { type Recipe, recipeSchema } from './recipe.js';

export interface LoadedRecipe {
  recipe: Recipe & { name: string };
  /** The file it was read from, absolute. */
  file: string;
}

/**
 * Reads a recipe. `overrides` are "dotted.key=value" texts, values in YAML, applied last. Throws FILE_NOT_FOUND, or
 * INVALID_CONFIG naming file, line, key and, where a key is unknown, the nearest right one.
 */
export function loadRecipe(path: string, overrides: readonly string[] = []): LoadedRecipe {
  const file = resolve(path);
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw fileError(path, error);
  }
  return { recipe: parseRecipe(text, file, path, overrides), file };
}

/** `file`: where relative paths start; `shown`: the file's name in messages. */
export function parseRecipe(
  text: string,
  file: string,
  shown = file,
  overrides: readonly string[] = [],
): LoadedRecipe['recipe'] {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const broken = document.errors[0];
  if (broken) {
    const { line } = lines.linePos(broken.pos[0]);
    throw new StepwardError('INVALID_CONFIG', `${shown}:${line}: expected YAML (${broken.message.split('\n')[0]})`);
  }
  const value: unknown = document.toJS() ?? {};
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new StepwardError('INVALID_CONFIG', `${shown}: expected a map of keys at the top`);
  }
  const set = new Set<string>();
  for (const override of overrides) set.add(applyOverride(value as Record<string, unknown>, override));
  const place = (path: Path, key: boolean) => {
    for (let length = path.length; length > 0; length--) {
      if (set.has(path.slice(0, length).join('.'))) return `--set ${path.slice(0, length).join('.')}`;
    }
    return `${shown}${lineOf(document, lines, path, key)}`;
  };
  const result = recipeSchema.safeParse(value);
  if (!result.success)
    throw new StepwardError('INVALID_CONFIG', describeIssues(result.error, recipeSchema, value, place));
  const recipe = absolute(result.data, dirname(file));
  checkTogether(recipe, shown);
  return { ...recipe, name: recipe.name ?? basename(file, extname(file)) };
}

function applyOverride(root: Record<string, unknown>, override: string): string {
  const at = override.indexOf('=');
  if (at <= 0)
    throw new StepwardError('INVALID_ARGUMENT', `--set: expected key=value, got ${JSON.stringify(override)}`);
  const name = override.slice(0, at).trim();
  const keys = name.split('.');
  let value: unknown;
  try {
    value = parse(override.slice(at + 1));
  } catch (error) {
    throw new StepwardError(
      'INVALID_ARGUMENT',
      `--set ${name}: expected a YAML value (${(error as Error).message.split('\n')[0]})`,
    );
  }
  let current = root;
  for (const [i, key] of keys.slice(0, -1).entries()) {
    const known = keysAt(recipeSchema, keys.slice(0, i), root);
    if (!known.includes(key)) {
      const wrong = keys.slice(0, i + 1).join('.');
      const hint = nearest(key, known);
      const meant = hint === undefined ? '' : `; did you mean ${[...keys.slice(0, i), hint].join('.')}?`;
      throw new StepwardError('INVALID_CONFIG', `--set ${name}: unknown key ${wrong}${meant}`);
    }
    const next = current[key];
    if (typeof next !== 'object' || next === null || Array.isArray(next)) current[key] = {};
    current = current[key] as Record<string, unknown>;
  }
  current[keys.at(-1) as string] = value;
  return name;
}

function lineOf(document: Document, lines: LineCounter, path: Path, key: boolean): string {
  for (let length = path.length; length > 0; length--) {
    const found = rangeOf(document, path.slice(0, length), key || length < path.length);
    if (found !== undefined) return `:${lines.linePos(found).line}`;
  }
  return '';
}

function rangeOf(document: Document, path: Path, key: boolean): number | undefined {
  const parent = path.length === 1 ? document.contents : document.getIn(path.slice(0, -1), true);
  const items = (parent as { items?: unknown[] } | null | undefined)?.items;
  const last = path.at(-1);
  if (!Array.isArray(items)) return undefined;
  if (typeof last === 'number') return (items[last] as { range?: number[] } | undefined)?.range?.[0];
  for (const item of items) {
    const pair = item as { key?: { value?: unknown; range?: number[] }; value?: { range?: number[] } | null };
    if (pair.key?.value === last) return (key ? undefined : pair.value?.range?.[0]) ?? pair.key?.range?.[0];
  }
  return undefined;
}

function absolute(recipe: Recipe, directory: string): Recipe {
  const at = <T extends { file?: string | undefined }>(source: T): T =>
    source.file === undefined ? source : { ...source, file: resolve(directory, source.file) };
  const { model, format, sft, problems, evaluate } = recipe;
  return {
    ...recipe,
    model:
      typeof model === 'string' ? resolve(directory, model) : { ...model, config: resolve(directory, model.config) },
    ...(typeof format === 'string' ? { format: resolve(directory, format) } : {}),
    ...(sft ? { sft: { ...sft, ift: at(sft.ift), ...(sft.eft ? { eft: at(sft.eft) } : {}) } } : {}),
    ...(problems ? { problems: { ...problems, source: at(problems.source) } } : {}),
    evaluate: {
      ...evaluate,
      ...(evaluate.source ? { source: at(evaluate.source) } : {}),
      ...(evaluate.judge_source ? { judge_source: at(evaluate.judge_source) } : {}),
    },
  };
}

function checkTogether(recipe: Recipe, shown: string): void {
  const fail = (message: string): never => {
    throw new StepwardError('INVALID_CONFIG', `${shown}: ${message}`);
  };
  if (recipe.iterations > 0 && !recipe.problems)
    fail('problems: expected a map of keys where iterations is above 0, which is missing');
  if (recipe.sft?.mix && !recipe.sft.eft) fail('sft.mix: expected sft.eft beside it, which is missing');
  if (recipe.search.temperature === 0)
    fail('search.temperature: expected more than 0, got 0 (all candidates would be the same)');
}
