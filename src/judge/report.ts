// How well a model judges: its answers to written pairs in both orders, and what they say of it where pairs have labels.

import type { JudgeConfig } from '../config/recipe.js';
import { treeKey } from '../data/tree-key.js';
import { wilsonInterval } from '../eval/interval.js';
import type { Policy } from '../loop/policy.js';
import { emptyCounts } from '../loop/types.js';
import { judgeView, type LabelledPair } from '../prompts/examples.js';
import { type Answer, askJudge, type Question } from './ask.js';
import { rate } from './tally.js';

export interface JudgeReport {
  n: number;
  /** Right verdicts over both orders; an unparsable one is wrong. */
  accuracy: number;
  /** Pairs judged right in both orders. */
  consistent_accuracy: number;
  interval: [number, number];
  /** Pairs whose orders gave different winners, of those where both gave one. */
  flip_rate: number | null;
  /** Verdicts for the candidate shown first, of those that gave a winner. 0.5 is fair. */
  first_rate: number | null;
  /** Share of the verdicts that could not be parsed. */
  parse_failures: number;
}

export interface JudgeOptions {
  judge: JudgeConfig;
  seed?: number;
  signal?: AbortSignal;
  onProgress?(done: number, total: number): void;
}

/** The judge's answers to written pairs: [a shown first, b shown first] of each. Always both orders. */
export async function judgePairs(
  policy: Policy,
  pairs: readonly (Omit<LabelledPair, 'label' | 'id'> & { id: string })[],
  options: JudgeOptions,
  counts = emptyCounts(),
): Promise<[Answer, Answer][]> {
  const questions = pairs.flatMap((pair, i): Question[] => {
    const view = judgeView(policy.prompts, pair);
    const key = treeKey(pair.id);
    const group = String(i);
    return [
      { view, group, key, step: 0 },
      { view: { ...view, a: view.b, b: view.a }, group, key, step: 1 },
    ];
  });
  const ask = { judge: options.judge, seed: options.seed ?? 0, signal: options.signal, onProgress: options.onProgress };
  const answers = await askJudge(policy, questions, ask, counts);
  return pairs.map((_, i) => [answers[2 * i] as Answer, answers[2 * i + 1] as Answer]);
}

/** Accuracy and bias of answers to labelled pairs. */
export function judgeReport(labels: readonly ('a' | 'b')[], answers: readonly [Answer, Answer][]): JudgeReport {
  let [right, both, bothRight, flips, decided, first, invalid] = [0, 0, 0, 0, 0, 0, 0];
  for (const [i, orders] of answers.entries()) {
    const named = orders.map(({ winner }, order) => nameOf(winner, order));
    for (const [order, name] of named.entries()) {
      if (name === labels[i]) right++;
      if (orders[order]?.winner === 'invalid') invalid++;
      if (name === null) continue;
      decided++;
      if (orders[order]?.winner === 'first') first++;
    }
    if (named[0] !== null && named[1] !== null) {
      both++;
      if (named[0] !== named[1]) flips++;
    }
    if (named[0] === labels[i] && named[1] === labels[i]) bothRight++;
  }
  const n = answers.length;
  return {
    n,
    accuracy: rate(right, 2 * n) ?? 0,
    consistent_accuracy: rate(bothRight, n) ?? 0,
    // Two verdicts on one pair are not independent: the interval counts pairs.
    interval: wilsonInterval(right / 2, n),
    flip_rate: rate(flips, both),
    first_rate: rate(first, decided),
    parse_failures: rate(invalid, 2 * n) ?? 0,
  };
}

/** Which of a and b an answer names; order 0 shows a first. */
export function nameOf(winner: Answer['winner'], order: number): 'a' | 'b' | null {
  if (winner !== 'first' && winner !== 'second') return null;
  return (winner === 'first') === (order === 0) ? 'a' : 'b';
}
