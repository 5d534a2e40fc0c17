// Verdicts of a step as comparisons: both orders of two candidates side by side, and whether they agree.

import type { VerdictRecord } from '../loop/search-record.js';

export interface Comparison {
  /** Candidate indices, the one shown first in the first order first. */
  a: number;
  b: number;
  verdicts: VerdictRecord[];
  /** agree: one winner; flip: the orders name different winners; open: a tie or an answer without a verdict. */
  result: 'agree' | 'flip' | 'open';
  /** Candidate index where they agree. */
  winner: number | null;
}

/** In the order in which the pairs of candidates first appear. */
export function comparisons(verdicts: readonly VerdictRecord[]): Comparison[] {
  const groups = new Map<string, VerdictRecord[]>();
  for (const verdict of verdicts) {
    const key = [verdict.first, verdict.second].sort((x, y) => x - y).join();
    groups.set(key, [...(groups.get(key) ?? []), verdict]);
  }
  return [...groups.values()].map((group) => {
    const { first: a, second: b } = group[0] as VerdictRecord;
    const winners = new Set(group.map(winnerOf));
    const [winner = null] = winners;
    if (winners.has(null)) return { a, b, verdicts: group, result: 'open', winner: null };
    if (winners.size > 1) return { a, b, verdicts: group, result: 'flip', winner: null };
    return { a, b, verdicts: group, result: 'agree', winner };
  });
}

export function countFlips(verdicts: readonly VerdictRecord[]): number {
  return comparisons(verdicts).filter(({ result }) => result === 'flip').length;
}

/** Index of the candidate a verdict names, or null. */
export function winnerOf({ first, second, winner }: VerdictRecord): number | null {
  if (winner === 'first') return first;
  return winner === 'second' ? second : null;
}
