// Which recipe `train` runs and into which folder, from its arguments.

import { join, resolve } from 'node:path';
import { checkRecipe, type LoadedRecipe, loadRecipe } from '../config/load.js';
import { StepwardError } from '../errors.js';
import { packageRoot } from '../native/load.js';
import { freshDirectory, latestDirectory, latestRun } from '../run/folder.js';
import { readManifest } from '../run/manifest.js';
import type { CommonOptions } from './shared.js';

export interface RunChoice extends Partial<CommonOptions> {
  run?: string;
  resume?: boolean;
  model?: string;
  set?: string[];
}

export interface ChosenRun extends LoadedRecipe {
  /** The run folder, absolute. */
  directory: string;
}

const RUNS = 'runs';

/**
 * `given`: a recipe file. Without one it is the built-in recipe, or with --resume the one that the run was started with.
 * Options override keys of either.
 */
export function chooseRun(given: string | undefined, options: RunChoice): ChosenRun {
  const overrides = [...(options.set ?? []), ...keyOverrides(options)];
  if (given === undefined && options.resume) {
    const directory = resolve(options.run ?? latestRun(RUNS));
    const file = join(directory, 'run.json');
    const manifest = readManifest(file);
    if (!manifest) {
      throw new StepwardError('FILE_NOT_FOUND', `${file}: expected a run to resume, found none (or name its recipe)`);
    }
    return { recipe: checkRecipe(manifest.recipe, file, file, overrides), file, directory };
  }
  const { recipe, file } = loadRecipe(given ?? join(packageRoot, 'recipes/arithmetic.yaml'), overrides);
  const base = join(RUNS, recipe.name);
  const directory = options.run ?? (options.resume ? latestDirectory(base) : freshDirectory(base));
  return { recipe, file, directory: resolve(directory) };
}

/** --seed 3 is --set seed=3, and so on. */
function keyOverrides(options: RunChoice): string[] {
  return (['model', 'seed', 'device', 'dtype', 'threads'] as const).flatMap((key) =>
    options[key] === undefined ? [] : [`${key}=${JSON.stringify(options[key])}`],
  );
}
