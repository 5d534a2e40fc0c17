// Records against a model's positions: what cannot be asked is refused where it was read, naming its place and lengths.
// A search path or a critique that runs out of positions while it grows is no error: it ends by length.

import { tooLong } from '../data/checked.js';
import { StepwardError } from '../errors.js';
import type { EngineLike } from '../native/types.js';
import { judgeView, type LabelledPair } from '../prompts/examples.js';
import type { SftExample } from '../training/types.js';
import type { Policy } from './policy.js';
import type { Placed, PlacedProblems, ProblemSet } from './records.js';

/** What lengths depend on. */
export type Fit = Pick<Policy, 'prompts'> & { engine: Pick<EngineLike, 'info'> };

/** Records whose texts are encoded together. */
const BATCH = 1024;

/** The problems, each with room for a token after its prompt. Throws CONTEXT_TOO_LONG. */
export function fittingProblems(fit: Fit, { problems, answers }: PlacedProblems): ProblemSet {
  const fitting = inBatches(fit, problems, ({ place, record }) => {
    check(place, { prompt: fit.prompts.solve(record.problem).length, 'one new token': 1 }, fit);
    return record;
  });
  return { problems: fitting, answers };
}

/** The pairs, each with room for its judge prompt and, in critique mode, a token after it. Throws CONTEXT_TOO_LONG. */
export function fittingPairs<T extends Omit<LabelledPair, 'label'>>(
  fit: Fit,
  pairs: readonly Placed<T>[],
  mode: 'critique' | 'readout',
): T[] {
  return inBatches(fit, pairs, ({ place, record }) => {
    const prompt = fit.prompts.judge(judgeView(fit.prompts, record), mode === 'readout').length;
    check(place, { 'judge prompt': prompt, ...(mode === 'critique' ? { 'one new token': 1 } : {}) }, fit);
    return record;
  });
}

/** A training example of each record. Throws CONTEXT_TOO_LONG. */
export function fittingExamples<T>(
  fit: Fit,
  records: readonly Placed<T>[],
  make: (record: T) => SftExample,
): SftExample[] {
  return inBatches(fit, records, ({ place, record }) => {
    const example = make(record);
    const [prompt = 0, ...rest] = example.segments.map(({ ids }) => ids.length);
    check(place, { prompt, completion: rest.reduce((sum, length) => sum + length, 0) }, fit);
    return example;
  });
}

function inBatches<T, R>({ prompts }: Fit, items: readonly T[], make: (item: T) => R): R[] {
  const made: R[] = [];
  for (let from = 0; from < items.length; from += BATCH) {
    const batch = items.slice(from, from + BATCH);
    for (const result of prompts.batch(() => batch.map(make))) made.push(result);
  }
  return made;
}

function check(place: string, parts: Record<string, number>, { engine }: Fit): void {
  const message = tooLong(parts, engine.info.maxPositions);
  if (message !== undefined) throw new StepwardError('CONTEXT_TOO_LONG', `${place}: ${message}`);
}
