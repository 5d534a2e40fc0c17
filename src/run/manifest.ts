// run.json: what a run was asked to do and with what. Also the check that a resumed run is the same run.

import { existsSync, readFileSync } from 'node:fs';
import { type Recipe, recipeSchema } from '../config/recipe.js';
import { StepwardError } from '../errors.js';
import { writeJson } from './folder.js';

export interface Manifest {
  recipe: Recipe;
  seed: number;
  versions: { stepward: string; node: string; torch: string };
  device: string;
  /** Instruction sets decide the last bits of every sum: the same bytes need the same. */
  cpu_capability: string;
  threads: number;
  state: 'running' | 'finished' | 'stopped' | 'interrupted' | 'failed';
  /** Why a guard stopped the run, or the error it failed with. */
  reason?: string;
  times: { started: string; ended?: string };
}

/** Keys that may differ when a run is resumed: they do not change what is already there. */
const FREE = new Set(['iterations', 'guards', 'threads', 'kv_budget_mib']);

export function readManifest(path: string): Manifest | undefined {
  if (!existsSync(path)) return undefined;
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Manifest;
  } catch (error) {
    throw new StepwardError('INVALID_DATA', `${path}: expected the JSON of a run (${(error as Error).message})`);
  }
}

export function writeManifest(path: string, manifest: Manifest): void {
  writeJson(path, manifest);
}

/** Throws INVALID_CONFIG naming the first key in which the recipe differs from the one the folder was made with. */
export function checkSameRecipe(path: string, manifest: Manifest, recipe: Recipe): void {
  // A key that came after the run began has its default there.
  const known = recipeSchema.safeParse(manifest.recipe);
  const before = flatten(known.success ? known.data : manifest.recipe);
  const now = flatten(recipe);
  for (const key of new Set([...before.keys(), ...now.keys()])) {
    if (FREE.has(key.split('.')[0] as string) || before.get(key) === now.get(key)) continue;
    const [was, is] = [before.get(key) ?? 'absent', now.get(key) ?? 'absent'];
    throw new StepwardError(
      'INVALID_CONFIG',
      `${key}: expected ${was} as in ${path}, got ${is}; a run can only be resumed with the recipe it was started with`,
    );
  }
}

function flatten(value: unknown, prefix = '', into = new Map<string, string>()): Map<string, string> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    for (const [key, inner] of Object.entries(value)) flatten(inner, prefix === '' ? key : `${prefix}.${key}`, into);
  } else if (value !== undefined) {
    into.set(prefix, JSON.stringify(value));
  }
  return into;
}
