// Knockout: the best by single elimination, the worst by its mirror image among those that lost their first meeting. About
// 3n/2 meetings, the fewest that find both ends where the judge is consistent.

import type { Meeting, Outcome, Schedule } from './meeting.js';

/**
 * Unbeaten candidates meet until one is left; so do those that lost and never won, where the loser goes on. Of an odd
 * number one sits out, the last of those that sat out least; `entrants` is the order of the first round.
 */
export function* knockout(entrants: readonly number[]): Schedule {
  let unbeaten = [...entrants];
  let winless: number[] = [];
  const winners = new Set<number>();
  const sat = new Map<number, number>();
  while (unbeaten.length > 1 || winless.length > 1) {
    const [upper, lower] = [roundOf(unbeaten, sat), roundOf(winless, sat)];
    const outcomes = yield [...upper.meetings, ...lower.meetings];
    // Who sat out comes first, so that it is not the last again.
    unbeaten = upper.sitting;
    winless = lower.sitting;
    for (const [m, meeting] of [...upper.meetings, ...lower.meetings].entries()) {
      const [winner, loser] = ahead(meeting, outcomes[m] as Outcome);
      if (m < upper.meetings.length) unbeaten.push(winner);
      if (!winners.has(loser)) winless.push(loser);
      winners.add(winner);
    }
  }
}

function roundOf(pool: readonly number[], sat: Map<number, number>): { meetings: Meeting[]; sitting: number[] } {
  const playing = [...pool];
  const sitting: number[] = [];
  if (playing.length % 2 === 1) {
    const least = Math.min(...playing.map((entrant) => sat.get(entrant) ?? 0));
    const at = playing.findLastIndex((entrant) => (sat.get(entrant) ?? 0) === least);
    sitting.push(...playing.splice(at, 1));
    for (const entrant of sitting) sat.set(entrant, least + 1);
  }
  const meetings: Meeting[] = [];
  for (let i = 0; i < playing.length; i += 2) meetings.push([playing[i] as number, playing[i + 1] as number]);
  return { meetings, sitting };
}

/** Winner and loser. A tie goes to the one the judge found likelier, else to the earlier candidate. */
function ahead([a, b]: Meeting, { won, lead }: Outcome): [winner: number, loser: number] {
  const by = won[0] - won[1] || (lead ?? 0) || b - a;
  return by > 0 ? [a, b] : [b, a];
}
