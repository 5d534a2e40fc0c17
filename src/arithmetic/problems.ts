// Seeded word problems of two or three additions and subtractions. A problem belongs to exactly one split, by a hash of
// its text, so no two calls with different splits can ever share a problem.

import { StepwardError } from '../errors.js';
import { hashText, Random } from './random.js';
import { forgetfulResult, hasCarry, type Operator, rightResult, type Sum } from './sums.js';
import { NAMES, SCENES, THINGS } from './words.js';

export type Split = 'train' | 'search' | 'held-out';

export interface ProblemOptions {
  split: Split;
  count: number;
  /** Default 0. */
  seed?: number;
}

/** What the loop sees of a problem. */
export interface ProblemRecord {
  id: string;
  problem: string;
  answer: string;
}

/** A change is an operator with its right-hand number; the left-hand number is the running value. */
export interface Change {
  op: Operator;
  amount: number;
}

/** A problem with what it was made from. */
export interface Problem extends ProblemRecord {
  start: number;
  changes: Change[];
}

/** Share of the changes that carry or borrow when worked out rightly. */
const CARRY_SHARE = 0.45;
/** Every number has two digits, also on the way: a tiny model need not learn to align numbers of different lengths. */
const SMALLEST = 10;
const LARGEST = 99;
const SPLIT_SHARES: readonly [Split, number][] = [
  ['train', 80],
  ['search', 90],
  ['held-out', 100],
];

const SPLITS = SPLIT_SHARES.map(([name]) => name);

export function splitOf(problemText: string): Split {
  const bucket = hashText(problemText) % 100;
  const found = SPLIT_SHARES.find(([, end]) => bucket < end);
  return found ? found[0] : 'held-out';
}

/**
 * Changes that keep to two digits whichever carries are forgotten on the way, so that every flawed demonstration
 * can be carried through to its end. Undefined when the draw leads nowhere.
 */
function drawChanges(random: Random, start: number, length: number): Change[] | undefined {
  const changes: Change[] = [];
  let right = start;
  let reachable = new Set([start]);
  for (let i = 0; i < length; i++) {
    const wanted = random.chance(CARRY_SHARE);
    const op: Operator = random.chance(0.5) ? '+' : '-';
    let next: Set<number> | undefined;
    for (let attempt = 0; attempt < 20 && !next; attempt++) {
      const amount = random.integer(SMALLEST, LARGEST);
      if (hasCarry({ left: right, op, right: amount }) !== wanted) continue;
      const values = new Set<number>();
      for (const left of reachable) {
        const sum: Sum = { left, op, right: amount };
        values.add(rightResult(sum)).add(forgetfulResult(sum));
      }
      if ([...values].some((value) => value < SMALLEST || value > LARGEST)) continue;
      next = values;
      changes.push({ op, amount });
      right = rightResult({ left: right, op, right: amount });
    }
    if (!next) return undefined;
    reachable = next;
  }
  return changes;
}

function writeProblem(random: Random, start: number, changes: readonly Change[]): string {
  const scene = random.pick(SCENES);
  const hero = random.pick(NAMES);
  const others = NAMES.filter((name) => name !== hero);
  const thing = random.pick(THINGS);
  const fill = (text: string, value: number): string =>
    text
      .replace('$', hero)
      .replace('@', () => random.pick(others))
      .replace('%', thing)
      .replace('#', String(value));
  const sentences = changes.map(({ op, amount }) => fill(random.pick(op === '+' ? scene.gains : scene.losses), amount));
  return [fill(scene.opening, start), ...sentences, fill(scene.question, 0)].join(' ');
}

/** Draws one problem of `split`; deterministic in the state of `random`. Throws INVALID_ARGUMENT for no such split. */
export function drawProblem(random: Random, split: Split): Omit<Problem, 'id'> {
  if (!SPLITS.includes(split)) {
    throw new StepwardError('INVALID_ARGUMENT', `split: expected ${SPLITS.join(' or ')}, got ${split}`);
  }
  for (;;) {
    const start = random.integer(SMALLEST, LARGEST);
    const changes = drawChanges(random, start, random.integer(2, 3));
    if (!changes) continue;
    const problem = writeProblem(random, start, changes);
    if (splitOf(problem) !== split) continue;
    const answer = changes.reduce((value, { op, amount }) => rightResult({ left: value, op, right: amount }), start);
    return { problem, answer: String(answer), start, changes };
  }
}

/** `count` different problems of one split, ids `SPLIT-SEED-INDEX`. */
export function drawProblems({ split, count, seed = 0 }: ProblemOptions): Problem[] {
  const random = new Random(seed, `problems/${split}`);
  const seen = new Set<string>();
  const problems: Problem[] = [];
  while (problems.length < count) {
    const drawn = drawProblem(random, split);
    if (seen.has(drawn.problem)) continue;
    seen.add(drawn.problem);
    problems.push({ id: `${split}-${seed}-${problems.length}`, ...drawn });
  }
  return problems;
}

/** The problems as the loop takes them. The answer serves evaluation only. */
export function makeProblems(options: ProblemOptions): ProblemRecord[] {
  return drawProblems(options).map(({ id, problem, answer }) => ({ id, problem, answer }));
}
