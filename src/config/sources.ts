// Where a recipe's data comes from: a JSON lines file, or the built-in arithmetic generator.

import { z } from 'zod';

const split = z.enum(['train', 'search', 'held-out']);
const count = z.int().positive();
/** Not the recipe's seed: the data stays the same while the run's seed changes. */
const seed = z.int().nonnegative().default(0);

function source<T extends z.ZodType>(arithmetic: T) {
  return z
    .strictObject({
      /** JSON lines; the path is relative to the recipe, with --set to where the command runs. */
      file: z.string().min(1).optional(),
      arithmetic: arithmetic.optional(),
    })
    .refine(
      (given) => given.file !== undefined || given.arithmetic !== undefined,
      'expected either file or arithmetic, found neither',
    )
    .refine(
      (given) => given.file === undefined || given.arithmetic === undefined,
      'expected either file or arithmetic, got both; --set {key}={file: ...} replaces the one by the other',
    );
}

/** `{id?, problem|question, answer?}`. */
export const problemSource = source(z.strictObject({ split, count, seed }));
/** `{id?, problem, steps}` or `{id?, problem, solution}`; `flawed`: share of carries the demonstrations forget. */
export const iftSource = source(z.strictObject({ split, count, seed, flawed: z.number().min(0).max(1).optional() }));
/** `{id?, problem, steps, a, b, critique?, label}`; `slips`: share of wrong candidates that forget their carries. */
export const eftSource = source(z.strictObject({ split, count, seed, slips: z.number().min(0).max(1).optional() }));

export type ProblemSource = z.infer<typeof problemSource>;
export type IftSource = z.infer<typeof iftSource>;
export type EftSource = z.infer<typeof eftSource>;
