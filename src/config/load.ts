// A recipe file with --set overrides, checked against the schema, with its paths made absolute.

import { readFileSync } from 'node:fs';
import { basename, dirname, extname, resolve } from 'node:path';
import { type Document, LineCounter, parseDocument } from 'yaml';
import { fileError } from '../data/jsonl.js';
import { StepwardError } from '../errors.js';
import { describeIssues, type Path } from './issues.js';
import { applyOverride } from './overrides.js';
import { absolutePaths } from './paths.js';
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
  const place = (path: Path, key: boolean) => `${shown}${lineOf(document, lines, path, key)}`;
  return checkRecipe(document.toJS() ?? {}, file, shown, overrides, place);
}

/** A recipe that is no text any more, as run.json holds it. `value` is changed by the overrides. */
export function checkRecipe(
  value: unknown,
  file: string,
  shown = file,
  overrides: readonly string[] = [],
  placeOf: (path: Path, key: boolean) => string = () => shown,
): LoadedRecipe['recipe'] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new StepwardError('INVALID_CONFIG', `${shown}: expected a map of keys at the top`);
  }
  const set = new Set(overrides.map((override) => applyOverride(value as Record<string, unknown>, override)));
  const place = (path: Path, key: boolean) => {
    const override = overrideOf(path);
    return override === undefined ? placeOf(path, key) : `--set ${override}`;
  };
  const overrideOf = (path: Path) =>
    path.map((_, i) => path.slice(0, path.length - i).join('.')).find((prefix) => set.has(prefix));
  const result = recipeSchema.safeParse(value);
  if (!result.success)
    throw new StepwardError('INVALID_CONFIG', describeIssues(result.error, recipeSchema, value, place));
  const recipe = absolutePaths(result.data, (key) =>
    overrideOf(key.split('.')) === undefined ? dirname(file) : process.cwd(),
  );
  checkTogether(recipe, shown);
  return { ...recipe, name: recipe.name ?? basename(file, extname(file)) };
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
