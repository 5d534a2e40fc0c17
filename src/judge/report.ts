// How well a model judges: its answers to written pairs in both orders, and what they say of it where pairs have labels.

import type { JudgeConfig } from '../config/recipe.js';
import { treeKey } from '../data/tree-key.js';
import { wilsonInterval } from '../eval/interval.js';
import type { Policy } from '../loop/policy.js';
import { inOrder } from '../loop/pool.js';
import { emptyCounts, type RecordId } from '../loop/types.js';
import { judgeView, type LabelledPair } from '../prompts/examples.js';
import { type Answer, askJudge } from './ask.js';
import { rate } from './tally.js';

export interface JudgeReport {
  /** Pairs. */
  n: number;
  /** Share of single verdicts, two a pair, that name the label. Chance is 0.5; a tie or no verdict is not right. */
  verdict_accuracy: number;
  /** Wilson 95%. Two verdicts on one pair are not independent: it counts pairs. */
  verdict_interval: [number, number];
  /** Share of pairs whose winner over both orders is the label; a tie or no winner is not right. */
  pair_accuracy: number;
  pair_interval: [number, number];
  /** Pairs whose orders gave different winners, of those where both gave one. */
  flip_rate: number | null;
  /** Verdicts for the candidate shown first, of those that gave a winner. 0.5 is fair. */
  first_rate: number | null;
  /** Verdicts that could not be parsed. */
  parse_failures: number;
  /** Of all verdicts. */
  parse_failure_rate: number | null;
}

export interface JudgeOptions {
  judge: JudgeConfig;
  seed?: number;
  signal?: AbortSignal;
  onProgress?(done: number, total: number): void;
}

/** Pairs that the engine is asked about at once. */
const MOST_PAIRS = 256;

/** Answers to a pair: a shown first, then b shown first. */
export type BothOrders = [Answer, Answer];

/** The judge's answers to written pairs. Always both orders. */
export async function judgePairs(
  policy: Policy,
  pairs: readonly (Omit<LabelledPair, 'label' | 'id'> & { id: RecordId })[],
  options: JudgeOptions,
  counts = emptyCounts(),
): Promise<BothOrders[]> {
  const { judge, seed = 0, signal, onProgress } = options;
  let done = 0;
  // Pair by pair in their order, many in the engine's hands at once.
  return inOrder(pairs, MOST_PAIRS, async (pair, i): Promise<BothOrders> => {
    const view = judgeView(policy.prompts, pair);
    const key = treeKey(pair.id);
    const questions = [
      { view, key, step: 0 },
      { view: { ...view, a: view.b, b: view.a }, key, step: 1 },
    ];
    const answers = await askJudge(policy, questions, { judge, seed, signal, priority: i }, counts);
    done += 2;
    onProgress?.(done, 2 * pairs.length);
    return answers as BothOrders;
  });
}

/** Accuracy and bias of answers to labelled pairs. */
export function judgeReport(labels: readonly ('a' | 'b')[], answers: readonly BothOrders[]): JudgeReport {
  let [rightVerdicts, rightPairs] = [0, 0];
  for (const [i, orders] of answers.entries()) {
    rightVerdicts += orders.filter(({ winner }, order) => nameOf(winner, order) === labels[i]).length;
    if (pairWinner(orders) === labels[i]) rightPairs++;
  }
  const n = answers.length;
  return {
    n,
    verdict_accuracy: rate(rightVerdicts, 2 * n) ?? 0,
    verdict_interval: wilsonInterval(rightVerdicts / 2, n),
    pair_accuracy: rate(rightPairs, n) ?? 0,
    pair_interval: wilsonInterval(rightPairs, n),
    ...judgeBias(answers),
  };
}

/** What answers say without labels. */
export function judgeBias(
  answers: readonly BothOrders[],
): Pick<JudgeReport, 'flip_rate' | 'first_rate' | 'parse_failures' | 'parse_failure_rate'> {
  let [flips, both, decided, first, invalid] = [0, 0, 0, 0, 0];
  for (const orders of answers) {
    const [one, two] = orders.map(({ winner }, order) => nameOf(winner, order)) as [Named, Named];
    for (const { winner } of orders) {
      if (winner === 'invalid') invalid++;
      if (winner === 'first') first++;
      if (winner === 'first' || winner === 'second') decided++;
    }
    if (one === null || two === null) continue;
    both++;
    if (one !== two) flips++;
  }
  return {
    flip_rate: rate(flips, both),
    first_rate: rate(first, decided),
    parse_failures: invalid,
    parse_failure_rate: rate(invalid, 2 * answers.length),
  };
}

type Named = 'a' | 'b' | null;

/** Which of a and b an answer names; order 0 shows a first. */
export function nameOf(winner: Answer['winner'], order: number): Named {
  if (winner !== 'first' && winner !== 'second') return null;
  return (winner === 'first') === (order === 0) ? 'a' : 'b';
}

/** Two orders to one winner: the one with more votes; equal votes tie; no usable vote is invalid. */
export function pairWinner(orders: BothOrders): 'a' | 'b' | 'tie' | 'invalid' {
  if (orders.every(({ winner }) => winner === 'invalid')) return 'invalid';
  const votes = (name: Named) => orders.filter(({ winner }, order) => nameOf(winner, order) === name).length;
  if (votes('a') === votes('b')) return 'tie';
  return votes('a') > votes('b') ? 'a' : 'b';
}
