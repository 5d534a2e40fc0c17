// Wins to a choice: which candidate continues the path, which is rejected, and what to do where the judge sees no
// difference. Pure.

import type { SelectConfig } from '../config/recipe.js';
import type { Candidate, SearchStep } from './types.js';

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
  if (eligible.every((index) => winsOf(candidates, index) === winsOf(candidates, best))) {
    return rollbacksLeft > 0 ? { kind: 'rollback' } : { kind: 'accept', chosen: best, rejected: null, outcome: 'cap' };
  }
  return { kind: 'accept', chosen: best, ...pairWith(candidates, eligible, best, config) };
}

/**
 * What is rejected beside a chosen candidate: the one with fewest wins, ties by `tie_rejected`. null without another, and
 * where the chosen one has no more wins than it or fewer than `min_margin` more.
 */
export function pairWith(
  candidates: readonly Candidate[],
  eligible: readonly number[],
  chosen: number,
  config: SelectConfig,
): Pick<SearchStep, 'rejected' | 'outcome'> & { outcome: 'pair' | 'unanimous' | 'margin' } {
  if (eligible.length === 1) return { rejected: null, outcome: 'unanimous' };
  const worst = pick(candidates, eligible, config.tie_rejected, (wins, other) => wins < other);
  const margin = winsOf(candidates, chosen) - winsOf(candidates, worst);
  // Two samples of one step teach nothing, whatever their wins, and `dpo` refuses such a pair.
  const same = sameIds(candidates[chosen] as Candidate, candidates[worst] as Candidate);
  if (same || margin <= 0 || margin < config.min_margin) return { rejected: null, outcome: 'margin' };
  return { rejected: worst, outcome: 'pair' };
}

export function sameIds(a: Candidate, b: Candidate): boolean {
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

/** Whether a tie rule puts `a` before `b`. */
export function goesFirst(a: Candidate, b: Candidate, rule: SelectConfig['tie_chosen']): boolean {
  if (rule === 'count') return a.count > b.count;
  if (rule === 'logprob') return a.logprob > b.logprob;
  return false;
}
