// Verdicts to wins, and the numbers that say how far a judge can be trusted: flips on swap, first-position rate.

import type { SearchCounts, Verdict } from '../loop/types.js';

/**
 * Wins per candidate, paper section 3.3: score_i = sum over j != i of O(s_i, s_j). A pair is worth one win: shown in
 * both orders each verdict is worth half, so orders that disagree give half a win each. A tie splits its worth; an
 * unparsable verdict gives nothing to anyone.
 */
export function tallyWins(candidates: number, verdicts: readonly Verdict[]): number[] {
  const orders = new Map<number, number>();
  for (const { first, second } of verdicts) {
    const key = pairKey(first, second, candidates);
    orders.set(key, (orders.get(key) ?? 0) + 1);
  }
  const wins = new Array<number>(candidates).fill(0);
  const give = (index: number, worth: number) => {
    wins[index] = (wins[index] as number) + worth;
  };
  for (const { first, second, winner } of verdicts) {
    const worth = 1 / (orders.get(pairKey(first, second, candidates)) as number);
    if (winner === 'first') give(first, worth);
    else if (winner === 'second') give(second, worth);
    else if (winner === 'tie') {
      give(first, worth / 2);
      give(second, worth / 2);
    }
  }
  return wins;
}

function pairKey(first: number, second: number, candidates: number): number {
  return Math.min(first, second) * candidates + Math.max(first, second);
}

/** Adds one set of verdicts over the same candidates to the counts. */
export function countVerdicts(counts: SearchCounts, verdicts: readonly Verdict[]): void {
  const winners = new Map<string, number>();
  for (const { first, second, winner } of verdicts) {
    counts.verdicts++;
    if (winner === 'invalid') counts.parse_failures++;
    if (winner !== 'first' && winner !== 'second') continue;
    counts.decided++;
    if (winner === 'first') counts.first_wins++;
    winners.set(`${first} ${second}`, winner === 'first' ? first : second);
    const other = winners.get(`${second} ${first}`);
    if (other === undefined) continue;
    counts.both_orders++;
    if (other !== winners.get(`${first} ${second}`)) counts.flips++;
  }
}

/** a / b, or null where there is nothing to divide by. */
export function rate(a: number, b: number): number | null {
  return b === 0 ? null : a / b;
}
