// Judges the candidates of many problems' next steps in one batch, every pair of them, and gives each its wins.

import { treeKey } from '../data/tree-key.js';
import { type AskOptions, askJudge, type Question } from '../judge/ask.js';
import { countVerdicts, tallyWins } from '../judge/tally.js';
import type { Policy } from './policy.js';
import { deriveSeed } from './random.js';
import type { Candidate, SearchCounts, Verdict } from './types.js';

/** The candidates of one problem's next step. */
export interface Contest {
  id: string;
  problem: string;
  /** Ids of the accepted steps, end to end. */
  stepIds: number[];
  /** How often this problem was sampled before: part of the random stream. */
  visit: number;
  candidates: Candidate[];
  /** Candidates that take part. */
  eligible: number[];
}

interface Asked {
  contest: number;
  first: number;
  second: number;
}

/**
 * Verdicts of each contest. Wins are written into the candidates. Candidates that read the same once EOS and the
 * delimiter are off (equal tokens, one ended by EOS) are not asked about: their verdicts are ties, and `counts` leaves
 * them out.
 */
export async function judgeContests(
  policy: Policy,
  contests: readonly Contest[],
  options: AskOptions,
  counts: SearchCounts,
): Promise<Verdict[][]> {
  const asked: Asked[] = [];
  const questions: Question[] = [];
  const same: Verdict[][] = contests.map(() => []);
  for (const [c, contest] of contests.entries()) {
    const shown = contest.candidates.map((candidate) => policy.prompts.shown(candidate.ids));
    const texts = shown.map((ids) => ids.join());
    const key = treeKey(`${contest.id}\u0000${contest.visit}`);
    for (const [first, second] of orderedPairs(contest, options)) {
      if (texts[first] === texts[second]) {
        same[c]?.push({ first, second, winner: 'tie', pFirst: null });
        continue;
      }
      asked.push({ contest: c, first, second });
      questions.push({
        view: {
          problem: contest.problem,
          steps: contest.stepIds,
          a: shown[first] as number[],
          b: shown[second] as number[],
        },
        group: contest.id,
        key,
        step: first * contest.candidates.length + second,
      });
    }
  }
  const answers = await askJudge(policy, questions, options, counts);
  const verdicts: Verdict[][] = contests.map(() => []);
  for (const [q, { contest, first, second }] of asked.entries()) {
    verdicts[contest]?.push({ first, second, ...(answers[q] as (typeof answers)[number]) });
  }
  for (const [c, { candidates }] of contests.entries()) {
    const own = verdicts[c] as Verdict[];
    countVerdicts(counts, own);
    own.push(...(same[c] as Verdict[]));
    const wins = tallyWins(candidates.length, own);
    for (const [i, candidate] of candidates.entries()) candidate.wins = wins[i] as number;
  }
  return verdicts;
}

function orderedPairs({ id, visit, eligible }: Contest, { judge, seed }: AskOptions): [number, number][] {
  const pairs: [number, number][] = [];
  for (const [x, i] of eligible.entries()) {
    for (const j of eligible.slice(x + 1)) {
      if (judge.orders === 'both') pairs.push([i, j], [j, i]);
      else pairs.push(deriveSeed(seed, 'order', id, visit, i, j) % 2 === 0 ? [i, j] : [j, i]);
    }
  }
  return pairs;
}
