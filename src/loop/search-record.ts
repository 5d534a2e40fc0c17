// A finished tree as a line of search.jsonl. The only place in the search where a gold answer meets a tree.

import type { Finish } from '../data/finish.js';
import { extractAnswer, goldAnswer } from '../eval/answer.js';
import type { Grader } from '../eval/grader.js';
import type { Policy } from './policy.js';
import type { GoldAnswers } from './records.js';
import type {
  Candidate,
  DiscardedStep,
  RecordId,
  SearchStep,
  SearchTree,
  TreeFinish,
  Verdict,
  Winner,
} from './types.js';

export interface VerdictRecord {
  first: number;
  second: number;
  winner: Winner;
  p_first: number | null;
  critique?: string;
}

export interface StepRecord {
  candidates: { ids: number[]; text: string; logprob: number; count: number; wins: number; finish: Finish }[];
  verdicts: VerdictRecord[];
  /** Only where not all pairs met. */
  rounds?: number;
  chosen: number;
  rejected: number | null;
  outcome: string;
}

export interface SearchRecord {
  id: RecordId;
  problem: string;
  prompt_ids: number[];
  steps: StepRecord[];
  solution: string;
  answer: string | null;
  finish: TreeFinish;
  rollbacks: number;
  discarded: (Omit<StepRecord, 'chosen' | 'rejected' | 'outcome'> & { depth: number; reason: string })[];
  /** Only where the problem came with an answer. */
  gold?: string;
  correct?: boolean;
}

export async function searchRecord(
  policy: Policy,
  tree: SearchTree,
  answers: GoldAnswers,
  grader: Grader,
): Promise<SearchRecord> {
  const ids = tree.steps.flatMap((step) => step.candidates[step.chosen]?.ids ?? []);
  const solution = policy.text.decode(ids).trim();
  const answer = extractAnswer(solution, policy.prompts.format.answer);
  const gold = answers.get(String(tree.id));
  return {
    id: tree.id,
    problem: tree.problem,
    prompt_ids: tree.promptIds,
    steps: tree.steps.map((step) => ({
      ...judgedRecord(step),
      chosen: step.chosen,
      rejected: step.rejected,
      outcome: step.outcome,
    })),
    solution,
    answer,
    finish: tree.finish,
    rollbacks: tree.rollbacks,
    discarded: tree.discarded.map((step) => ({ depth: step.depth, reason: step.reason, ...judgedRecord(step) })),
    ...(gold === undefined ? {} : { gold: goldAnswer(gold), correct: await grader.grade(answer, goldAnswer(gold)) }),
  };
}

function judgedRecord({ candidates, verdicts, rounds }: SearchStep | DiscardedStep) {
  return {
    candidates: candidates.map(candidateRecord),
    verdicts: verdicts.map(verdictRecord),
    ...(rounds === undefined ? {} : { rounds }),
  };
}

function candidateRecord({ ids, text, logprob, count, wins, finish }: Candidate): StepRecord['candidates'][number] {
  return { ids, text, logprob: round(logprob), count, wins, finish };
}

function verdictRecord({ first, second, winner, ...answer }: Verdict): VerdictRecord {
  return { first, second, winner, ...answerRecord(answer) };
}

/** What files hold of an answer beside its winner. */
export function answerRecord({ pFirst, critique }: Pick<Verdict, 'pFirst' | 'critique'>) {
  return { p_first: pFirst === null ? null : round(pFirst), ...(critique === undefined ? {} : { critique }) };
}

/** Six decimals: what float32 log-probs hold, at half the size. */
function round(value: number): number {
  return Number(value.toFixed(6));
}
