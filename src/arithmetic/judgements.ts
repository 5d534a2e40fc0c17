// Pairs of candidate steps to judge: one right, one corrupted, with a rationale that works the right step out column by
// column, holds each candidate against it and ends with the verdict. Unlike the demonstrations they are sound.

import { drawProblem, type Problem, type ProblemOptions } from './problems.js';
import { Random } from './random.js';
import { valueAfter, type WorkedStep, workThrough, writeAnswer, writeStep } from './solutions.js';
import { forgetfulResult, hasCarry, type Operator, rightResult, type Sum, writeWorking } from './sums.js';

export interface EftOptions extends ProblemOptions {
  /** Share of the pairs whose wrong candidate forgets the carries and borrows of its sum; default 0.5. */
  slips?: number;
}

/** A pair to judge. `steps` are the accepted steps before it; `critique` ends with `[[A]]` or `[[B]]`. */
export interface EftRecord {
  id: string;
  problem: string;
  steps: string[];
  a: string;
  b: string;
  critique: string;
  label: 'a' | 'b';
}

/** A place in a solution: what was accepted, and the sum that is due, or undefined when the answer is. */
interface Place {
  problem: Omit<Problem, 'id'>;
  accepted: WorkedStep[];
  due: Sum | undefined;
}

/** Share of the carries forgotten in the accepted steps: the judge must hold a step against what really stands there. */
const FLAWED_BEFORE = 0.3;
const ANSWER_SHARE = 0.25;
/**
 * Share of the other wrong sums that carry or borrow one too many: what a model does that has just learnt to carry.
 * Without these a judge learns that of two sums ten apart the one that carries is right.
 */
const OVERCARRIED_SHARE = 0.4;

function placeAt(random: Random, problem: Omit<Problem, 'id'>, index: number): Place {
  const accepted = workThrough(random, problem.start, problem.changes.slice(0, index), FLAWED_BEFORE);
  const change = problem.changes[index];
  const due = change && { left: valueAfter(problem, accepted), op: change.op, right: change.amount };
  return { problem, accepted, due };
}

function rightStep({ problem, accepted, due }: Place): string {
  if (!due) return writeAnswer(valueAfter(problem, accepted));
  return writeStep(accepted.length, { sum: due, result: rightResult(due) });
}

/** `value` with one digit changed, dropped or doubled; never the same number. */
function miscopy(random: Random, value: number): number {
  const digits = String(value);
  const at = random.integer(0, digits.length - 1);
  const other = String((Number(digits[at]) + random.integer(1, 9)) % 10);
  const roll = random.next();
  let text = digits.slice(0, at) + other + digits.slice(at + 1);
  if (roll < 0.15 && digits.length > 1) text = digits.slice(0, at) + digits.slice(at + 1);
  else if (roll < 0.25) text = digits.slice(0, at) + digits[at] + digits.slice(at);
  const changed = Number(text);
  return changed === value ? value + 1 : changed;
}

/** A result that is off by one in some column: a carry too many, too few, or a slip of a digit. */
function offResult(random: Random, right: number): number {
  const unit = random.pick([1, 1, 2, 10, 10]);
  const off = right + (random.chance(0.5) ? unit : -unit);
  return off < 0 ? right + unit : off;
}

function overcarried(due: Sum): number {
  return rightResult(due) + (due.op === '+' ? 10 : -10);
}

type Corruption = (random: Random, place: Place, due: Sum) => string;

/** What goes wrong with a sum, other than forgotten carries. */
const SUM_CORRUPTIONS: readonly Corruption[] = [
  (random, { accepted }, due) => writeStep(accepted.length, { sum: due, result: offResult(random, rightResult(due)) }),
  (random, { accepted }, due) => writeStep(accepted.length, { sum: due, result: miscopy(random, rightResult(due)) }),
  (random, { accepted }, due) => wrongSum(accepted.length, { ...due, left: miscopy(random, due.left) }),
  (random, { accepted }, due) => wrongSum(accepted.length, { ...due, right: miscopy(random, due.right) }),
  (_random, { accepted }, due) => wrongSum(accepted.length, { ...due, op: due.op === '+' ? '-' : '+' }),
  (random, { problem, accepted }, due) => {
    const amounts = problem.changes.map((change) => change.amount);
    return wrongSum(accepted.length, { ...due, right: random.pick(amounts) });
  },
  (random, { problem, accepted }, due) => {
    const values = [problem.start, ...accepted.map((step) => step.sum.right)];
    return wrongSum(accepted.length, { ...due, left: random.pick(values) });
  },
  (random, { problem, accepted }) => {
    const change = random.pick(problem.changes);
    return wrongSum(accepted.length, { left: valueAfter(problem, accepted), op: change.op, right: change.amount });
  },
  (_random, { accepted }, due) => writeStep(accepted.length + 1, { sum: due, result: rightResult(due) }),
  (_random, { problem, accepted }) => writeAnswer(valueAfter(problem, accepted)),
];

/** A sum that is not the one due, with its own right result. */
function wrongSum(index: number, sum: Sum): string {
  const op: Operator = sum.op === '-' && sum.left < sum.right ? '+' : sum.op;
  const worked = { ...sum, op };
  return writeStep(index, { sum: worked, result: rightResult(worked) });
}

function corruptAnswer(random: Random, { problem, accepted }: Place): string {
  const value = valueAfter(problem, accepted);
  const roll = random.next();
  if (roll < 0.35) return writeAnswer(miscopy(random, value));
  if (roll < 0.55) return writeAnswer(random.pick([problem.start, ...accepted.map((step) => step.sum.left)]));
  if (roll < 0.75) return writeAnswer(offResult(random, value));
  const change = random.pick(problem.changes);
  return wrongSum(accepted.length, { left: value, op: change.op, right: change.amount });
}

/** The candidate as far as it agrees with the right step, and the first place where it does not. */
function upToDifference(right: string, candidate: string): string {
  const lexemes = (text: string): string[] => text.match(/[A-Za-z]+|[^A-Za-z]/g) ?? [];
  const wanted = lexemes(right);
  const shown = lexemes(candidate);
  const end = shown.findIndex((lexeme, i) => lexeme !== wanted[i]);
  return shown.slice(0, end < 0 ? shown.length : end + 1).join('');
}

function writeCritique(place: Place, right: string, a: string, b: string): string {
  const { accepted, due } = place;
  const worked = due
    ? `Step ${accepted.length + 1}: ${due.left} ${due.op} ${due.right} (${writeWorking(due)}) = ${rightResult(due)}`
    : right;
  const held = (name: string, candidate: string): string =>
    `${name}: ${upToDifference(right, candidate)} ${candidate === right ? 'ok' : 'bad'}`;
  return `${worked}\n${held('A', a)}\n${held('B', b)}\n[[${a === right ? 'A' : 'B'}]]`;
}

/** A place and a wrong candidate for it. */
function drawPair(random: Random, options: EftOptions, slip: boolean): { place: Place; wrong: string } {
  for (;;) {
    const problem = drawProblem(random, options.split);
    const atAnswer = !slip && random.chance(ANSWER_SHARE);
    const index = atAnswer ? problem.changes.length : random.integer(0, problem.changes.length - 1);
    const place = placeAt(random, problem, index);
    const { due, accepted } = place;
    if (slip && !(due && hasCarry(due))) continue;
    let wrong: string;
    if (!due) wrong = corruptAnswer(random, place);
    else if (slip) wrong = writeStep(accepted.length, { sum: due, result: forgetfulResult(due) });
    else if (random.chance(OVERCARRIED_SHARE))
      wrong = writeStep(accepted.length, { sum: due, result: overcarried(due) });
    else wrong = random.pick(SUM_CORRUPTIONS)(random, place, due);
    if (wrong !== rightStep(place)) return { place, wrong };
  }
}

export function makeEft({ slips = 0.5, ...options }: EftOptions): EftRecord[] {
  const seed = options.seed ?? 0;
  const random = new Random(seed, `eft/${options.split}`);
  const records: EftRecord[] = [];
  for (let i = 0; i < options.count; i++) {
    const { place, wrong } = drawPair(random, options, random.chance(slips));
    const right = rightStep(place);
    const label = i % 2 === 0 ? 'a' : 'b';
    const [a, b] = label === 'a' ? [right, wrong] : [wrong, right];
    records.push({
      id: `eft-${options.split}-${seed}-${i}`,
      problem: place.problem.problem,
      steps: place.accepted.map((step, n) => writeStep(n, step)),
      a,
      b,
      critique: writeCritique(place, right, a, b),
      label,
    });
  }
  return records;
}
