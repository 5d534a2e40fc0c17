// Which candidates meet: every pair in one round, or fewer of them in rounds that follow from the outcomes before.

import type { JudgeConfig } from '../config/recipe.js';
import { knockout } from './knockout.js';
import type { Schedule } from './meeting.js';
import { swiss } from './swiss.js';

/** `entrants`: candidate indices, in the order in which they are drawn. */
export function scheduleOf({ pairing, rounds }: JudgeConfig, entrants: readonly number[]): Schedule {
  if (pairing === 'swiss') return swiss(entrants, rounds ?? Math.ceil(Math.log2(Math.max(1, entrants.length))));
  if (pairing === 'knockout') return knockout(entrants);
  return everyPair(entrants);
}

function* everyPair(entrants: readonly number[]): Schedule {
  const meetings = entrants.flatMap((a, i) => entrants.slice(i + 1).map((b) => [a, b] as const));
  if (meetings.length > 0) yield meetings;
}
