// Judges the candidates of one problem's next step, every pair of them, in one request, and gives each its wins.

import { treeKey } from '../data/tree-key.js';
import { type Answer, type AskOptions, askJudge, type Question } from '../judge/ask.js';
import { countVerdicts, tallyWins } from '../judge/tally.js';
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

/** One comparison. `question` is undefined where both read the same: nothing is asked. */
interface Comparison {
  first: number;
  second: number;
  question: number | undefined;
}

/**
 * Verdicts of a contest. Wins are written into the candidates. What counts is what the judge is shown, a candidate
 * without EOS and delimiter: candidates that read the same tie with each other and get the same answers against the
 * rest, since each question is asked once. `counts` leaves out those ties.
 */
export async function judgeContest(
  policy: Policy,
  contest: Contest,
  options: AskOptions,
  counts: SearchCounts,
): Promise<Verdict[]> {
  const { candidates } = contest;
  const { comparisons, questions } = compare(policy, contest, options);
  const answers = await askJudge(policy, questions, options, counts);
  const verdicts = comparisons.map(({ first, second, question }): Verdict => {
    if (question === undefined) return { first, second, winner: 'tie', pFirst: null };
    return { first, second, ...(answers[question] as Answer) };
  });
  countVerdicts(
    counts,
    verdicts.filter((_, v) => comparisons[v]?.question !== undefined),
  );
  const wins = tallyWins(candidates.length, verdicts);
  for (const [i, candidate] of candidates.entries()) candidate.wins = wins[i] as number;
  return verdicts;
}

/** The comparisons of a contest, and the questions they need. */
function compare(
  policy: Policy,
  contest: Contest,
  options: AskOptions,
): { comparisons: Comparison[]; questions: Question[] } {
  const { id, problem, steps, visit, candidates } = contest;
  const shown = candidates.map((candidate) => policy.prompts.shown(candidate.ids));
  const texts = shown.map((ids) => ids.join());
  const asked = new Map<string, number>();
  const questions: Question[] = [];
  const comparisons = orderedPairs(contest, texts, options).map(([first, second]) => {
    if (texts[first] === texts[second]) return { first, second, question: undefined };
    const key = `${id}\u0000${visit}\u0000${texts[first]}\u0000${texts[second]}`;
    let question = asked.get(key);
    if (question === undefined) {
      const view = { problem, steps, a: shown[first] as number[], b: shown[second] as number[] };
      question = questions.push({ view, key: treeKey(key), step: 0 }) - 1;
      asked.set(key, question);
    }
    return { first, second, question };
  });
  return { comparisons, questions };
}

function orderedPairs(
  { id, visit, eligible }: Contest,
  texts: readonly string[],
  { judge, seed }: AskOptions,
): [number, number][] {
  const pairs: [number, number][] = [];
  for (const [x, i] of eligible.entries()) {
    for (const j of eligible.slice(x + 1)) {
      if (judge.orders === 'both') {
        pairs.push([i, j], [j, i]);
        continue;
      }
      const [low, high] = (texts[i] as string) <= (texts[j] as string) ? [i, j] : [j, i];
      const swapped =
        deriveSeed(seed, 'order', String(id), visit, texts[low] as string, texts[high] as string) % 2 === 1;
      pairs.push(swapped ? [high, low] : [low, high]);
    }
  }
  return pairs;
}
