// How well a model solves: greedy accuracy on held-out problems, and samples of solutions.

import { PrefixForest } from '../data/forest.js';
import { treeKey } from '../data/tree-key.js';
import { extractAnswer, goldAnswer } from '../eval/answer.js';
import type { Grader } from '../eval/grader.js';
import { wilsonInterval } from '../eval/interval.js';
import { rate } from '../judge/tally.js';
import { cutSolution } from '../prompts/examples.js';
import type { Policy } from './policy.js';
import type { Problem, ProblemSet } from './records.js';
import type { Finish } from './types.js';

export interface SolveOptions {
  maxTokens: number;
  /** Solutions per problem; default 1. */
  samples?: number;
  /** Default 0: greedy. */
  temperature?: number;
  topP?: number;
  topK?: number;
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

const UNSOLVED: Solution = { text: '', tokens: 0, steps: 0, answer: null, finish: 'length' };
const FINISHES: readonly Finish[] = ['stop', 'eos', 'length'];

/** Solutions of each problem, in order. A prompt too long for the model gets empty ones that end by length. */
export async function solveProblems(
  policy: Policy,
  problems: readonly Problem[],
  options: SolveOptions,
): Promise<Solution[][]> {
  const samples = options.samples ?? 1;
  const forest = new PrefixForest();
  const asked: number[] = [];
  for (const [i, { problem }] of problems.entries()) {
    const ids = policy.prompts.solve(problem);
    if (ids.length >= policy.engine.info.maxPositions) continue;
    forest.add(ids, i);
    asked.push(i);
  }
  const solutions = problems.map(() => new Array<Solution>(samples).fill(UNSOLVED));
  if (asked.length === 0) return solutions;
  const total = asked.length * samples;
  const result = await policy.engine.generate(
    {
      ...forest.build(),
      samples,
      seed: options.seed ?? 0,
      treeKeys: BigUint64Array.from(asked, (i) => treeKey((problems[i] as Problem).id)),
      steps: new Int32Array(asked.length),
      temperature: options.temperature ?? 0,
      topP: options.topP ?? 1,
      topK: options.topK ?? 0,
      maxNewTokens: options.maxTokens,
      eosIds: Int32Array.from(policy.prompts.eosIds),
    },
    { signal: options.signal, onProgress: (done) => options.onProgress?.(done, total) },
  );
  const { format } = policy.prompts;
  for (const [k, i] of asked.entries()) {
    solutions[i] = Array.from({ length: samples }, (_, s) => {
      const row = k * samples + s;
      const ids = result.tokens.subarray(result.offsets[row], result.offsets[row + 1]);
      const text = policy.text.decode(ids).trim();
      return {
        text,
        tokens: ids.length,
        steps: cutSolution(text, format.step_delimiter).length,
        answer: extractAnswer(text, format.answer),
        finish: FINISHES[result.finish[row] as number] as Finish,
      };
    });
  }
  return solutions;
}

export interface SolutionRecord {
  id: string;
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
      const [first = UNSOLVED] = solutions[i] ?? [];
      const { text, answer, steps, tokens, finish } = first;
      const gold = goldAnswer(answers.get(id) ?? '');
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
