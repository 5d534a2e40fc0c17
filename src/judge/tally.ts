// Verdicts to wins, and the numbers that say how far a judge can be trusted: flips on swap, first-position rate.

import type { SearchCounts, Verdict } from '../loop/types.js';

/**
 * Wins per candidate, paper section 3.3: score_i = sum over j != i of O(s_i, s_j). A pair is worth one win: shown in
 * both orders each verdict is worth half, so orders that disagree give half a win each. A tie splits its worth; an
 * unparsable verdict gives nothing to anyone.
 */
export function tallyWins(candidates: number, verdicts: readonly Verdict[]): number[] {
  const wins = new Array<number>(candidates).fill(0);
  eachShare(candidates, verdicts, (winner, _, worth) => {
    wins[winner] = (wins[winner] as number) + worth;
  });
  return wins;
}

/**
 * Wins per candidate where not all pairs met, out of `rounds`: half of them, and half of what it won less what it lost. A
 * meeting won is a whole win, one lost none; a round that a candidate sat out, or whose verdicts cannot be read, is half
 * a win, as a tie: candidates that met different numbers of others can be compared, and no one gains by not meeting.
 */
export function tallyRounds(candidates: number, verdicts: readonly Verdict[], rounds: number): number[] {
  const wins = new Array<number>(candidates).fill(rounds / 2);
  eachShare(candidates, verdicts, (winner, loser, worth) => {
    wins[winner] = (wins[winner] as number) + worth / 2;
    wins[loser] = (wins[loser] as number) - worth / 2;
  });
  return wins;
}

/** Most wins that a candidate of a step can have: one of each other that was judged, or one a round. */
export function mostWins({ verdicts, rounds }: MetStep): number {
  if (rounds !== undefined) return rounds;
  const judged = new Set(verdicts.flatMap(({ first, second }) => [first, second]));
  return Math.max(0, judged.size - 1);
}

/** What says who met: of a step, or of its record. */
export interface MetStep {
  verdicts: readonly Pick<Verdict, 'first' | 'second'>[];
  rounds?: number;
}

/** Every share of a pair's win: who got it, who did not, and how much. */
function eachShare(
  candidates: number,
  verdicts: readonly Verdict[],
  give: (winner: number, loser: number, worth: number) => void,
): void {
  const orders = new Map<number, number>();
  for (const { first, second } of verdicts) {
    const key = pairKey(first, second, candidates);
    orders.set(key, (orders.get(key) ?? 0) + 1);
  }
  for (const { first, second, winner } of verdicts) {
    const worth = 1 / (orders.get(pairKey(first, second, candidates)) as number);
    if (winner === 'first') give(first, second, worth);
    else if (winner === 'second') give(second, first, worth);
    else if (winner === 'tie') {
      give(first, second, worth / 2);
      give(second, first, worth / 2);
    }
  }
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
