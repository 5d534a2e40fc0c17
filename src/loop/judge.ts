// Judges the candidates of one problem's next step, in one request or in a few rounds, and gives each its wins.

import { treeKey } from '../data/tree-key.js';
import { type Answer, type AskOptions, askJudge, type Question } from '../judge/ask.js';
import { type Meeting, outcomeOf } from '../judge/meeting.js';
import { scheduleOf } from '../judge/pairing.js';
import { countVerdicts, tallyRounds, tallyWins } from '../judge/tally.js';
import { deriveSeed } from '../random.js';
import type { Policy } from './policy.js';
import type { Candidate, RecordId, SearchCounts, Verdict } from './types.js';

/** The candidates of one problem's next step. */
export interface Contest {
  id: RecordId;
  problem: string;
  /** Ids of each accepted step. */
  steps: readonly (readonly number[])[];
  /** How often this problem was sampled before: part of the random stream. */
  visit: number;
  candidates: Candidate[];
  /** Candidates that take part. */
  eligible: number[];
}

export interface Judged {
  verdicts: Verdict[];
  /** Where not all pairs met: the most wins there can be. */
  rounds?: number;
}

/** What the judge is shown of each candidate: its ids without EOS and delimiter, and the same as text. */
interface Looks {
  ids: number[][];
  texts: string[];
}

/**
 * Verdicts of a contest. Wins are written into the candidates. What counts is what the judge is shown, a candidate
 * without EOS and delimiter: candidates that read the same have the same wins. Where every pair meets they tie with each
 * other and get the same answers against the rest, since each question is asked once; else the first of them meets the
 * others for all. `counts` leaves out those ties.
 */
export async function judgeContest(
  policy: Policy,
  contest: Contest,
  options: AskOptions,
  counts: SearchCounts,
): Promise<Judged> {
  const { candidates, eligible } = contest;
  const ids = candidates.map((candidate) => policy.prompts.shown(candidate.ids));
  const looks = { ids, texts: ids.map((own) => own.join()) };
  const everyPair = options.judge.pairing === 'all';
  const schedule = scheduleOf(options.judge, everyPair ? eligible : drawn(contest, looks, options.seed));
  const verdicts: Verdict[] = [];
  let rounds = 0;
  for (let round = schedule.next(); !round.done; rounds++) {
    const meetings = round.value;
    const held = await hold(policy, contest, looks, meetings, options, counts);
    verdicts.push(...held.flat());
    round = schedule.next(meetings.map((meeting, m) => outcomeOf(meeting, held[m] as Verdict[])));
  }
  const wins = everyPair
    ? tallyWins(candidates.length, verdicts)
    : tallyRounds(candidates.length, verdicts, rounds).map((own, i, all) =>
        eligible.includes(i) ? (all[firstLike(i, contest, looks)] ?? own) : 0,
      );
  for (const [i, candidate] of candidates.entries()) candidate.wins = wins[i] as number;
  return everyPair ? { verdicts } : { verdicts, rounds };
}

/** The candidates that read differently, the first of each, in an order that depends on the problem and on them alone. */
function drawn(contest: Contest, looks: Looks, seed: number): number[] {
  const { id, visit, eligible } = contest;
  const lots = new Map(
    eligible
      .filter((i) => firstLike(i, contest, looks) === i)
      .map((i) => [i, deriveSeed(seed, 'pairing', String(id), visit, looks.texts[i] as string)]),
  );
  return [...lots.keys()].sort((a, b) => (lots.get(a) as number) - (lots.get(b) as number));
}

/** The first candidate that reads like this one. */
function firstLike(index: number, { eligible }: Contest, { texts }: Looks): number {
  return eligible.find((other) => texts[other] === texts[index]) ?? index;
}

/** The verdicts of each meeting, all asked in one request. */
async function hold(
  policy: Policy,
  { id, problem, steps, visit }: Contest,
  { ids, texts }: Looks,
  meetings: readonly Meeting[],
  options: AskOptions,
  counts: SearchCounts,
): Promise<Verdict[][]> {
  const asked = new Map<string, number>();
  const questions: Question[] = [];
  /** The question's number; undefined where both read the same: nothing is asked. */
  const ask = (first: number, second: number): number | undefined => {
    if (texts[first] === texts[second]) return undefined;
    const key = `${id}\u0000${visit}\u0000${texts[first]}\u0000${texts[second]}`;
    let question = asked.get(key);
    if (question === undefined) {
      const view = { problem, steps, a: ids[first] as number[], b: ids[second] as number[] };
      question = questions.push({ view, key: treeKey(key), step: 0 }) - 1;
      asked.set(key, question);
    }
    return question;
  };
  const comparisons = meetings.map(([a, b]) =>
    ordersOf(a, b, id, visit, texts, options).map(([first, second]) => ({
      first,
      second,
      question: ask(first, second),
    })),
  );
  const answers = await askJudge(policy, questions, options, counts);
  const verdicts = comparisons.map((orders) =>
    orders.map(({ first, second, question }): Verdict => {
      if (question === undefined) return { first, second, winner: 'tie', pFirst: null };
      return { first, second, ...(answers[question] as Answer) };
    }),
  );
  const real = comparisons.flat().map(({ question }) => question !== undefined);
  countVerdicts(
    counts,
    verdicts.flat().filter((_, v) => real[v]),
  );
  return verdicts;
}

/** The orders in which a pair is shown. One order is drawn for the texts, whichever of them is the earlier candidate. */
function ordersOf(
  a: number,
  b: number,
  id: RecordId,
  visit: number,
  texts: readonly string[],
  { judge, seed }: AskOptions,
): Meeting[] {
  if (judge.orders === 'both') {
    return [
      [a, b],
      [b, a],
    ];
  }
  const [low, high] = (texts[a] as string) <= (texts[b] as string) ? [a, b] : [b, a];
  const swapped = deriveSeed(seed, 'order', String(id), visit, texts[low] as string, texts[high] as string) % 2 === 1;
  return [swapped ? [high, low] : [low, high]];
}
