// Worked solutions as `Step n: a op b = c` lines and an answer line. The demonstrations are flawed on purpose: most
// steps with a carry or borrow forget it, and what follows builds on the wrong value.

import { type Change, drawProblems, type Problem, type ProblemOptions } from './problems.js';
import { Random } from './random.js';
import { forgetfulResult, hasCarry, rightResult, type Sum, writeSum } from './sums.js';

export interface IftOptions extends ProblemOptions {
  /** Share of the steps with a carry or borrow that forget it; default 0.6. */
  flawed?: number;
}

/** A demonstration. `steps` are the lines of the solution in order, without line ends; the last is the answer line. */
export interface IftRecord {
  id: string;
  problem: string;
  steps: string[];
}

/** A change as it is worked out in a solution. */
export interface WorkedStep {
  sum: Sum;
  result: number;
}

/** Works through `changes`; each step with a carry forgets it with probability `flawed`. */
export function workThrough(random: Random, start: number, changes: readonly Change[], flawed: number): WorkedStep[] {
  const steps: WorkedStep[] = [];
  let value = start;
  for (const { op, amount } of changes) {
    const sum: Sum = { left: value, op, right: amount };
    value = hasCarry(sum) && random.chance(flawed) ? forgetfulResult(sum) : rightResult(sum);
    steps.push({ sum, result: value });
  }
  return steps;
}

export function writeStep(index: number, step: WorkedStep): string {
  return `Step ${index + 1}: ${writeSum(step.sum, step.result)}`;
}

export function writeAnswer(value: number): string {
  return `Answer: ${value}`;
}

/** The value after the last of `steps`, or the value the problem starts with. */
export function valueAfter(problem: Pick<Problem, 'start'>, steps: readonly WorkedStep[]): number {
  return steps.at(-1)?.result ?? problem.start;
}

export function makeIft({ flawed = 0.6, ...options }: IftOptions): IftRecord[] {
  const random = new Random(options.seed ?? 0, `ift/${options.split}`);
  return drawProblems(options).map((problem) => {
    const steps = workThrough(random, problem.start, problem.changes, flawed);
    return {
      id: `ift-${problem.id}`,
      problem: problem.problem,
      steps: [...steps.map((step, i) => writeStep(i, step)), writeAnswer(valueAfter(problem, steps))],
    };
  });
}
