// How well a model solves: greedy accuracy on held-out problems, and samples of solutions.

import { type Finish, finishOf } from '../data/finish.js';
import { PrefixForest } from '../data/forest.js';
import { treeKey } from '../data/tree-key.js';
import { extractAnswer, goldAnswer } from '../eval/answer.js';
import type { Grader } from '../eval/grader.js';
import { wilsonInterval } from '../eval/interval.js';
import { rate } from '../judge/tally.js';
import { cutSolution } from '../prompts/examples.js';
import type { Policy } from './policy.js';
import type { Problem, ProblemSet } from './records.js';
import type { RecordId } from './types.js';

export interface SolveOptions {
  maxTokens: number;
  /** Solutions per problem; default 1. */
  samples?: number;
  /** Default 0: greedy. */
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  seed?: number;
  signal?: AbortSignal;
  onProgress?(done: number, total: number): void;
}

export interface Solution {
  text: string;
  tokens: number;
  steps: number;
  answer: string | null;
  finish: Finish;
}

/** Solutions of each problem, in order. Throws CONTEXT_TOO_LONG where a prompt leaves no room for a token. */
export async function solveProblems(
  policy: Policy,
  problems: readonly Problem[],
  options: SolveOptions,
): Promise<Solution[][]> {
  if (problems.length === 0) return [];
  const samples = options.samples ?? 1;
  const forest = new PrefixForest();
  for (const [i, { problem }] of problems.entries()) forest.add(policy.prompts.solve(problem), i);
  const total = problems.length * samples;
  const result = await policy.engine.generate(
    {
      ...forest.build(),
      samples,
      seed: options.seed ?? 0,
      treeKeys: BigUint64Array.from(problems, ({ id }) => treeKey(id)),
      steps: new Int32Array(problems.length),
      temperature: options.temperature ?? 0,
      topP: options.topP ?? 1,
      topK: options.topK ?? 0,
      minP: options.minP ?? 0,
      maxNewTokens: options.maxTokens,
      eosIds: Int32Array.from(policy.prompts.eosIds),
    },
    { signal: options.signal, onProgress: (done) => options.onProgress?.(done, total) },
  );
  const { format } = policy.prompts;
  return problems.map((_, i) =>
    Array.from({ length: samples }, (_sample, s) => {
      const row = i * samples + s;
      const ids = result.tokens.subarray(result.offsets[row], result.offsets[row + 1]);
      const text = policy.text.decode(ids).trim();
      return {
        text,
        tokens: ids.length,
        steps: cutSolution(text, format.step_delimiter).length,
        answer: extractAnswer(text, format.answer),
        finish: finishOf(result.finish[row]),
      };
    }),
  );
}

export interface SolutionRecord {
  id: RecordId;
  problem: string;
  solution: string;
  answer: string | null;
  gold: string;
  correct: boolean;
  steps: number;
  tokens: number;
  finish: Finish;
}

export interface AccuracyReport {
  n: number;
  correct: number;
  accuracy: number;
  /** Wilson 95%. */
  interval: [number, number];
  mean_steps: number | null;
  mean_step_tokens: number | null;
  /** Solutions that did not end by themselves. */
  unfinished: number;
}

/** Greedy accuracy. Every problem must have its answer. */
export async function evaluateSolving(
  policy: Policy,
  { problems, answers }: ProblemSet,
  grader: Grader,
  options: SolveOptions,
): Promise<{ report: AccuracyReport; records: SolutionRecord[] }> {
  const solutions = await solveProblems(policy, problems, options);
  const records = await Promise.all(
    problems.map(async ({ id, problem }, i): Promise<SolutionRecord> => {
      const [{ text, answer, steps, tokens, finish }] = solutions[i] as [Solution];
      const gold = goldAnswer(answers.get(String(id)) ?? '');
      return {
        id,
        problem,
        solution: text,
        answer,
        gold,
        correct: await grader.grade(answer, gold),
        steps,
        tokens,
        finish,
      };
    }),
  );
  return { report: accuracyReport(records), records };
}

export function accuracyReport(records: readonly SolutionRecord[]): AccuracyReport {
  const n = records.length;
  const sum = (value: (record: SolutionRecord) => number) =>
    records.reduce((total, record) => total + value(record), 0);
  const correct = sum((record) => Number(record.correct));
  const steps = sum((record) => record.steps);
  return {
    n,
    correct,
    accuracy: n === 0 ? 0 : correct / n,
    interval: wilsonInterval(correct, n),
    mean_steps: rate(steps, n),
    mean_step_tokens: rate(
      sum((record) => record.tokens),
      steps,
    ),
    unfinished: sum((record) => Number(record.finish === 'length')),
  };
}
