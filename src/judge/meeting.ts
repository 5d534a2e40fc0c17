// A meeting of two candidates before the judge, how it went, and what plans meetings from it.

import type { Verdict } from '../loop/types.js';
import { tallyWins } from './tally.js';

/** Two candidates, by index. */
export type Meeting = readonly [number, number];

export interface Outcome {
  /** Share of the one win that each of the two got. */
  won: readonly [number, number];
  /** How much likelier the judge found the first to be the better one, mean over the orders, in [-1, 1]; null where unread. */
  lead: number | null;
}

/** Yields the meetings of a round, is given their outcomes in the same order, and returns when there is no more to ask. */
export type Schedule = Generator<Meeting[], void, Outcome[]>;

/** `verdicts`: those on this meeting, in one order or both. */
export function outcomeOf([a, b]: Meeting, verdicts: readonly Verdict[]): Outcome {
  const local = verdicts.map((verdict) => ({
    ...verdict,
    first: Number(verdict.first === b),
    second: Number(verdict.second === b),
  }));
  const leads = verdicts.flatMap(({ first, pFirst }) => {
    if (pFirst === null) return [];
    return first === a ? [2 * pFirst - 1] : [1 - 2 * pFirst];
  });
  return {
    won: tallyWins(2, local) as [number, number],
    lead: leads.length === 0 ? null : leads.reduce((sum, lead) => sum + lead, 0) / leads.length,
  };
}
