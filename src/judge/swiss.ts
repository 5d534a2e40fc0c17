// Swiss rounds: in each, candidates of nearly equal standing meet that have not met yet.

import type { Meeting, Schedule } from './meeting.js';

/**
 * At most `rounds` rounds, fewer once all have met. Of an odd number one sits out, the lowest of those that sat out least.
 * Candidates of equal standing keep the order of `entrants`.
 */
export function* swiss(entrants: readonly number[], rounds: number): Schedule {
  /** Won less lost: what a candidate sat out does not move it. */
  const standing = new Map(entrants.map((entrant) => [entrant, 0]));
  const sat = new Map(entrants.map((entrant) => [entrant, 0]));
  const met = new Set<string>();
  const change = (of: Map<number, number>, entrant: number, by: number) => of.set(entrant, (of.get(entrant) ?? 0) + by);
  for (let round = 0; round < rounds; round++) {
    const order = [...entrants].sort((a, b) => (standing.get(b) ?? 0) - (standing.get(a) ?? 0));
    const meetings = roundOf(order, sat, (a, b) => met.has(keyOf(a, b)));
    if (meetings.length === 0) return;
    const playing = new Set(meetings.flat());
    for (const entrant of entrants) if (!playing.has(entrant)) change(sat, entrant, 1);
    const outcomes = yield meetings;
    for (const [m, [a, b]] of meetings.entries()) {
      const [wonA, wonB] = outcomes[m]?.won ?? [0, 0];
      met.add(keyOf(a, b));
      change(standing, a, wonA - wonB);
      change(standing, b, wonB - wonA);
    }
  }
}

type Met = (a: number, b: number) => boolean;

function keyOf(a: number, b: number): string {
  return `${Math.min(a, b)} ${Math.max(a, b)}`;
}

function roundOf(order: readonly number[], sat: ReadonlyMap<number, number>, met: Met): Meeting[] {
  const tries = { left: MOST_TRIES };
  if (order.length % 2 === 0) return pairAll(order, met, tries) ?? pairSome(order, met);
  const sitters = [...order].reverse().sort((a, b) => (sat.get(a) ?? 0) - (sat.get(b) ?? 0));
  for (const sitter of sitters) {
    const meetings = pairAll(
      order.filter((entrant) => entrant !== sitter),
      met,
      tries,
    );
    if (meetings) return meetings;
  }
  return pairSome(order, met);
}

/** Far more than is needed while fewer than half of all pairs have met: then there is a pairing of all (Dirac). */
const MOST_TRIES = 10_000;

/** Each of `order` with the nearest that it has not met and that leaves the rest a pairing; undefined where none is found. */
function pairAll(order: readonly number[], met: Met, tries: { left: number }): Meeting[] | undefined {
  const [top, ...rest] = order;
  if (top === undefined) return [];
  for (const other of rest) {
    if (met(top, other)) continue;
    if (tries.left-- <= 0) return undefined;
    const meetings = pairAll(
      rest.filter((entrant) => entrant !== other),
      met,
      tries,
    );
    if (meetings) return [[top, other], ...meetings];
  }
  return undefined;
}

/** The same without a second thought: those for whom nobody is left sit out. */
function pairSome(order: readonly number[], met: Met): Meeting[] {
  const meetings: Meeting[] = [];
  let left = [...order];
  while (left.length > 0) {
    const [top, ...rest] = left as [number, ...number[]];
    const other = rest.find((entrant) => !met(top, entrant));
    if (other !== undefined) meetings.push([top, other]);
    left = rest.filter((entrant) => entrant !== other);
  }
  return meetings;
}
