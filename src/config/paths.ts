// Paths in a recipe made absolute. Those that the recipe names start at its folder, those of --set where the command runs.

import { resolve } from 'node:path';
import type { Recipe } from './recipe.js';

/** `baseOf`: the folder at which the path of a dotted key starts. */
export function absolutePaths(recipe: Recipe, baseOf: (key: string) => string): Recipe {
  const path = (key: string, value: string) => resolve(baseOf(key), value);
  const source = <T extends { file?: string | undefined }>(key: string, given: T): T =>
    given.file === undefined ? given : { ...given, file: path(`${key}.file`, given.file) };
  const { model, format, sft, problems, evaluate } = recipe;
  return {
    ...recipe,
    model: typeof model === 'string' ? path('model', model) : { ...model, config: path('model.config', model.config) },
    ...(typeof format === 'string' ? { format: path('format', format) } : {}),
    ...(sft
      ? { sft: { ...sft, ift: source('sft.ift', sft.ift), ...(sft.eft ? { eft: source('sft.eft', sft.eft) } : {}) } }
      : {}),
    ...(problems ? { problems: { ...problems, source: source('problems.source', problems.source) } } : {}),
    evaluate: {
      ...evaluate,
      ...(evaluate.source ? { source: source('evaluate.source', evaluate.source) } : {}),
      ...(evaluate.judge_source ? { judge_source: source('evaluate.judge_source', evaluate.judge_source) } : {}),
    },
  };
}
