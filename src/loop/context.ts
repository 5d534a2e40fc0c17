// What every stage of a run is given: the recipe, the folder, where models come from and whom to tell.

import type { Recipe } from '../config/recipe.js';
import type { Grader } from '../eval/grader.js';
import type { PromptFormat } from '../prompts/format.js';
import type { RunFolder } from '../run/folder.js';
import type { Policy } from './policy.js';

export interface RunHooks {
  signal?: AbortSignal;
  /** A line for the reader. */
  log?(line: string): void;
  warn?(line: string): void;
  /** Where a stage stands. `done` equals `total` when it is over. */
  progress?(stage: string, done: number, total: number, note?: string): void;
}

export interface OpenRequest {
  directory: string;
  initSeed?: number;
  format?: PromptFormat;
}

export interface RunContext {
  recipe: Recipe;
  folder: RunFolder;
  hooks: RunHooks;
  grader: Grader;
  open(request: OpenRequest): Promise<Policy>;
}

/** Opens a model for the time of `work`. */
export async function withPolicy<T>(
  context: RunContext,
  request: OpenRequest,
  work: (policy: Policy) => Promise<T>,
): Promise<T> {
  const policy = await context.open(request);
  try {
    return await work(policy);
  } finally {
    await policy.dispose();
  }
}

/** Seconds since a `performance.now()`, to the millisecond. */
export function secondsSince(start: number): number {
  return Math.round(performance.now() - start) / 1000;
}
