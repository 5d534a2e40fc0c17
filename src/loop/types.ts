// What a search makes: a tree per problem with its candidates, verdicts and choices. No gold answers.

import type { Finish } from '../data/finish.js';

/** As the problem's record gives it, or the number of its line. 3 and "3" are the same id. */
export type RecordId = string | number;

/** A candidate next step: identical samples merged. */
export interface Candidate {
  /** Delimiter or EOS included. */
  ids: number[];
  text: string;
  /** Sum of its tokens' log-probs at temperature 1, in nats. */
  logprob: number;
  /** Samples merged into it. */
  count: number;
  /** Won comparisons; half a win for each order of a pair, see tallyWins and tallyRounds. 0 where it was not judged. */
  wins: number;
  finish: Finish;
}

export type Winner = 'first' | 'second' | 'tie' | 'invalid';

/** One answer of the judge. `first` and `second` are candidate indices in the order shown. */
export interface Verdict {
  first: number;
  second: number;
  winner: Winner;
  /** Probability the judge gives the first over the second; null where it cannot be read. */
  pFirst: number | null;
  critique?: string;
}

/** pair: chosen and rejected; the others say why there is no pair. */
export type StepOutcome = 'pair' | 'unanimous' | 'margin' | 'cap';

/** An accepted step with everything it was chosen from. */
export interface SearchStep {
  candidates: Candidate[];
  verdicts: Verdict[];
  /** Most wins there can be, where not all pairs met: with judge.pairing swiss or knockout. */
  rounds?: number;
  chosen: number;
  /** null: the step carries no pair. */
  rejected: number | null;
  outcome: StepOutcome;
}

/** Candidates of no step of the path: without spread, taken back, or of a solution that was not taken. */
export interface DiscardedStep {
  /** Steps before it. */
  depth: number;
  candidates: Candidate[];
  verdicts: Verdict[];
  rounds?: number;
  /**
   * no_spread: its wins were all equal; rolled_back: it had been accepted before that; cut_off: no candidate was whole;
   * not_taken: it continued another partial solution than the path (beam, best_first).
   */
  reason: 'no_spread' | 'rolled_back' | 'cut_off' | 'not_taken';
}

/**
 * eos: the solution ended; max_steps: so many steps, or for best_first so many expansions; length: every candidate was
 * cut off, or the model's positions ran out.
 */
export type TreeFinish = 'eos' | 'max_steps' | 'length';

export interface SearchTree {
  id: RecordId;
  problem: string;
  promptIds: number[];
  steps: SearchStep[];
  discarded: DiscardedStep[];
  rollbacks: number;
  finish: TreeFinish;
}

/** Work done, in the words of the summaries. */
export interface SearchCounts {
  /** Tokens of every prompt sampled from, once per step of a problem. */
  prompt_tokens: number;
  generated_tokens: number;
  judge_prompt_tokens: number;
  judge_generated_tokens: number;
  computed_tokens: number;
  prefix_free_tokens: number;
  verdicts: number;
  parse_failures: number;
  /** Pairs whose two orders both gave a winner, and those of them that disagreed. */
  both_orders: number;
  flips: number;
  /** Verdicts that gave a winner, and those of them for the one shown first. */
  decided: number;
  first_wins: number;
}

export function emptyCounts(): SearchCounts {
  return {
    prompt_tokens: 0,
    generated_tokens: 0,
    judge_prompt_tokens: 0,
    judge_generated_tokens: 0,
    computed_tokens: 0,
    prefix_free_tokens: 0,
    verdicts: 0,
    parse_failures: 0,
    both_orders: 0,
    flips: 0,
    decided: 0,
    first_wins: 0,
  };
}
