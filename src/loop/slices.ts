// Which problems an iteration searches.

import type { Recipe } from '../config/recipe.js';
import { deriveSeed, shuffled } from '../random.js';
import type { Placed, PlacedProblems, Problem } from './records.js';
import type { RecordId } from './types.js';

/** How many problems iteration n (from 1) asks for. */
function sizeOf(recipe: Recipe, n: number): number {
  const per = recipe.problems?.per_iteration ?? 0;
  return typeof per === 'number' ? per : (per[Math.min(n, per.length) - 1] as number);
}

/** What a run should know of its problems before it begins: that iterations ask for more than there are; else nothing. */
export function sliceRemark({ problems }: PlacedProblems, recipe: Recipe): string | undefined {
  const sizes = Array.from({ length: recipe.iterations }, (_, i) => sizeOf(recipe, i + 1));
  const most = Math.max(...sizes);
  if (most <= problems.length) return undefined;
  const asked = new Set(sizes).size > 1 ? `up to ${most}` : `${most}`;
  return `problems.per_iteration: ${asked} asked for, and the source has ${problems.length}: no iteration takes more than these`;
}

/** The problems of iteration n (from 1): fresh ones while the source has them, then a new shuffle of all. */
export function sliceOf(all: PlacedProblems, recipe: Recipe, n: number): PlacedProblems {
  let skip = 0;
  for (let i = 1; i < n; i++) skip += sizeOf(recipe, i);
  const count = Math.min(sizeOf(recipe, n), all.problems.length);
  const taken = new Map<RecordId, Placed<Problem>>();
  for (let at = skip, pass = -1, order: Placed<Problem>[] = []; taken.size < count; at++) {
    const wanted = Math.floor(at / all.problems.length);
    if (wanted !== pass) {
      pass = wanted;
      order = shuffled(all.problems, deriveSeed(recipe.seed, 'problems', pass));
    }
    const problem = order[at % all.problems.length] as Placed<Problem>;
    taken.set(problem.record.id, problem);
  }
  return { problems: [...taken.values()], answers: all.answers };
}
