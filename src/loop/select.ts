// Wins to a choice: which candidate continues the path, which is rejected, and what to do where the judge sees no
// difference. Pure.

import type { SelectConfig } from '../config/recipe.js';
import type { Candidate } from './types.js';

export type Choice =
  /** Go on with `chosen`; `rejected` is null where the step carries no pair. */
  | { kind: 'accept'; chosen: number; rejected: number | null; outcome: 'pair' | 'unanimous' | 'margin' | 'cap' }
  /** No spread: drop the previous step with its pair and go back. */
  | { kind: 'rollback' };

/**
 * Most wins is chosen, fewest wins is rejected (paper section 3.3). Ties: by `tie_chosen` and `tie_rejected`, then the
 * earlier candidate. No spread (most equals fewest) is a rollback while `rollbacksLeft` is above 0; after that the
 * first of the best goes on without a pair. `eligible`: candidate indices that were judged, at least one, ascending.
 */
export function select(
  candidates: readonly Candidate[],
  eligible: readonly number[],
  config: SelectConfig,
  rollbacksLeft: number,
): Choice {
  const best = pick(candidates, eligible, config.tie_chosen, (wins, other) => wins > other);
  if (eligible.length === 1) {
    if (config.on_unanimous === 'accept') return { kind: 'accept', chosen: best, rejected: null, outcome: 'unanimous' };
    return rollbacksLeft > 0 ? { kind: 'rollback' } : { kind: 'accept', chosen: best, rejected: null, outcome: 'cap' };
  }
  const worst = pick(candidates, eligible, config.tie_rejected, (wins, other) => wins < other);
  const margin = winsOf(candidates, best) - winsOf(candidates, worst);
  if (margin === 0) {
    return rollbacksLeft > 0 ? { kind: 'rollback' } : { kind: 'accept', chosen: best, rejected: null, outcome: 'cap' };
  }
  // Two samples of one step teach nothing, whatever their wins, and `dpo` refuses such a pair.
  const same = sameIds(candidates[best] as Candidate, candidates[worst] as Candidate);
  if (same || margin < config.min_margin) return { kind: 'accept', chosen: best, rejected: null, outcome: 'margin' };
  return { kind: 'accept', chosen: best, rejected: worst, outcome: 'pair' };
}

function sameIds(a: Candidate, b: Candidate): boolean {
  return a.ids.length === b.ids.length && a.ids.every((id, i) => id === b.ids[i]);
}

function winsOf(candidates: readonly Candidate[], index: number): number {
  return (candidates[index] as Candidate).wins;
}

function pick(
  candidates: readonly Candidate[],
  eligible: readonly number[],
  rule: SelectConfig['tie_chosen'],
  better: (wins: number, other: number) => boolean,
): number {
  let best = eligible[0] as number;
  for (const index of eligible.slice(1)) {
    const a = candidates[index] as Candidate;
    const b = candidates[best] as Candidate;
    if (better(a.wins, b.wins) || (a.wins === b.wins && goesFirst(a, b, rule))) best = index;
  }
  return best;
}

function goesFirst(a: Candidate, b: Candidate, rule: SelectConfig['tie_chosen']): boolean {
  if (rule === 'count') return a.count > b.count;
  if (rule === 'logprob') return a.logprob > b.logprob;
  return false;
}
