// The arithmetic generator: what it makes follows from its seed, splits never share a problem, sums are right where they
// must be and flawed where they should be.

import { describe, expect, it } from 'vitest';
import { makeEft, makeIft, makeProblems, type Split } from '../../src/arithmetic/index.js';
import { drawProblems } from '../../src/arithmetic/problems.js';
import {
  forgetfulResult,
  hasCarry,
  type Operator,
  rightResult,
  type Sum,
  writeWorking,
} from '../../src/arithmetic/sums.js';

const SPLITS: Split[] = ['train', 'search', 'held-out'];
const STEP = /^Step (\d+): (\d+) ([+-]) (\d+) = (\d+)$/;

function parseStep(step: string): { index: number; sum: Sum; result: number } {
  const match = STEP.exec(step);
  if (!match) throw new Error(`not a step: ${step}`);
  const sum = { left: Number(match[2]), op: match[3] as Operator, right: Number(match[4]) };
  return { index: Number(match[1]), sum, result: Number(match[5]) };
}

describe('sums', () => {
  it.each([
    [{ left: 47, op: '+', right: 38 }, 85, 75, true, '7+8=15, 4+3+1=8'],
    [{ left: 52, op: '-', right: 38 }, 14, 24, true, '12-8=4, 5-3-1=1'],
    [{ left: 52, op: '+', right: 37 }, 89, 89, false, '2+7=9, 5+3=8'],
    [{ left: 95, op: '+', right: 17 }, 112, 102, true, '5+7=12, 9+1+1=11'],
    [{ left: 85, op: '+', right: 40 }, 125, 125, false, '5+0=5, 8+4=12'],
    [{ left: 203, op: '-', right: 38 }, 165, 275, true, '13-8=5, 10-3-1=6, 2-0-1=1'],
  ] as [Sum, number, number, boolean, string][])('%j', (sum, right, forgetful, carry, working) => {
    expect(rightResult(sum)).toBe(right);
    expect(forgetfulResult(sum)).toBe(forgetful);
    expect(hasCarry(sum)).toBe(carry);
    expect(writeWorking(sum)).toBe(working);
  });

  it('refuse a split that there is not, where drawing would never end', () => {
    const split = 'test' as Split;
    expect(() => makeProblems({ split, count: 1 })).toThrow('split: expected train or search or held-out, got test');
  });

  it('forgetting changes a result exactly where there is a carry', () => {
    for (let left = 0; left < 130; left++) {
      for (let right = 0; right < 130; right++) {
        for (const op of ['+', '-'] as const) {
          if (op === '-' && right > left) continue;
          const sum = { left, op, right };
          expect(forgetfulResult(sum) !== rightResult(sum)).toBe(hasCarry(sum));
        }
      }
    }
  });
});

describe('makeProblems', () => {
  it('is the same for the same seed and differs for another', () => {
    const options = { split: 'search', count: 50, seed: 3 } as const;
    expect(makeProblems(options)).toEqual(makeProblems(options));
    expect(makeProblems(options)).not.toEqual(makeProblems({ ...options, seed: 4 }));
  });

  it('gives a prefix of the longer list for a smaller count', () => {
    const long = makeProblems({ split: 'search', count: 60, seed: 3 });
    expect(makeProblems({ split: 'search', count: 20, seed: 3 })).toEqual(long.slice(0, 20));
  });

  it('never repeats a problem, within a split or across splits, whatever the seeds', () => {
    const texts = SPLITS.flatMap((split) =>
      [0, 1].map((seed) => new Set(makeProblems({ split, count: 400, seed }).map(({ problem }) => problem))),
    );
    for (const set of texts) expect(set.size).toBe(400);
    for (const [i, one] of texts.entries()) {
      for (const [j, other] of texts.entries()) {
        if (Math.floor(i / 2) !== Math.floor(j / 2)) expect([...one].filter((text) => other.has(text))).toEqual([]);
      }
    }
  });

  it('gives ids that are unique and answers that follow from the changes', () => {
    const problems = drawProblems({ split: 'held-out', count: 300, seed: 1 });
    expect(new Set(problems.map(({ id }) => id)).size).toBe(300);
    for (const { problem, answer, start, changes } of problems) {
      const value = changes.reduce((total, { op, amount }) => (op === '+' ? total + amount : total - amount), start);
      expect(answer).toBe(String(value));
      const numbers = (problem.match(/\d+/g) ?? []).map(Number);
      expect(numbers).toEqual([start, ...changes.map(({ amount }) => amount)]);
      expect(changes.length === 2 || changes.length === 3).toBe(true);
    }
  });
});

describe('makeIft', () => {
  const records = makeIft({ split: 'train', count: 2000, seed: 1 });

  it('writes numbered steps that build on each other, then the answer', () => {
    for (const { steps } of records) {
      let value: number | undefined;
      for (const [i, step] of steps.slice(0, -1).entries()) {
        const { index, sum, result } = parseStep(step);
        expect(index).toBe(i + 1);
        if (value !== undefined) expect(sum.left).toBe(value);
        expect([rightResult(sum), forgetfulResult(sum)]).toContain(result);
        value = result;
      }
      expect(steps.at(-1)).toBe(`Answer: ${value}`);
    }
  });

  it('forgets the carry in 60% of the steps that have one, and in no other', () => {
    const steps = records.flatMap((record) => record.steps.slice(0, -1).map(parseStep));
    const carries = steps.filter(({ sum }) => hasCarry(sum));
    const flawed = steps.filter(({ sum, result }) => result !== rightResult(sum));
    expect(flawed.every(({ sum }) => hasCarry(sum))).toBe(true);
    expect(flawed.length / carries.length).toBeGreaterThan(0.55);
    expect(flawed.length / carries.length).toBeLessThan(0.65);
    expect(carries.length / steps.length).toBeGreaterThan(0.25);
  });

  it('is sound when asked to be', () => {
    const sound = makeIft({ split: 'train', count: 200, seed: 1, flawed: 0 });
    for (const step of sound.flatMap((record) => record.steps.slice(0, -1).map(parseStep))) {
      expect(step.result).toBe(rightResult(step.sum));
    }
  });
});

describe('makeEft', () => {
  const records = makeEft({ split: 'train', count: 2000, seed: 1 });

  /** The step that is due, worked out from the problem's own numbers and words. */
  function due(problem: string, steps: string[]): string {
    const numbers = (problem.match(/\d+/g) ?? []).map(Number);
    const last = steps.at(-1);
    const value = last === undefined ? (numbers[0] as number) : parseStep(last).result;
    const amount = numbers[steps.length + 1];
    if (amount === undefined) return `Answer: ${value}`;
    const sentence = problem.split(/(?<=\.) /)[steps.length + 1] as string;
    const op = /finds|buys \d+ more|gives \w+ \d|gets|brings|puts in|adds/.test(sentence) ? '+' : '-';
    const sum: Sum = { left: value, op, right: amount };
    return `Step ${steps.length + 1}: ${sum.left} ${op} ${sum.right} = ${rightResult(sum)}`;
  }

  it('labels the candidate that is right, and the other is not', () => {
    for (const { problem, steps, a, b, label } of records) {
      const right = due(problem, steps);
      expect(label === 'a' ? a : b).toBe(right);
      expect(label === 'a' ? b : a).not.toBe(right);
    }
  });

  it('shows the right one first and second equally often', () => {
    expect(records.filter(({ label }) => label === 'a').length).toBe(records.length / 2);
  });

  it('makes half of the wrong candidates by forgetting the carries', () => {
    const slips = records.filter(({ a, b, label }) => {
      const match = STEP.exec(label === 'a' ? b : a);
      const right = STEP.exec(label === 'a' ? a : b);
      if (!match || !right || match.slice(1, 5).join() !== right.slice(1, 5).join()) return false;
      const { sum, result } = parseStep(match[0]);
      return hasCarry(sum) && result === forgetfulResult(sum);
    });
    expect(slips.length / records.length).toBeGreaterThan(0.45);
    expect(slips.length / records.length).toBeLessThan(0.6);
  });

  it('gives sound reasons that end with the verdict', () => {
    for (const { a, b, critique, label } of records) {
      const [worked, onA, onB, verdict] = critique.split('\n') as [string, string, string, string];
      expect(worked.replace(/ \(.*\)/, '')).toBe(label === 'a' ? a : b);
      expect(verdict).toBe(label === 'a' ? '[[A]]' : '[[B]]');
      for (const [line, name, candidate] of [
        [onA, 'A', a],
        [onB, 'B', b],
      ] as const) {
        const good = (name === 'A') === (label === 'a');
        expect(line.endsWith(good ? ' ok' : ' bad')).toBe(true);
        const shown = line.slice('A: '.length, good ? -' ok'.length : -' bad'.length);
        expect(line.startsWith(`${name}: `)).toBe(true);
        expect(good ? candidate === shown : candidate.startsWith(shown)).toBe(true);
      }
      for (const [, x, y, z, result] of worked.matchAll(/(\d+)([+-]\d+)([+-]1)?=(\d+)/g)) {
        expect(Number(x) + Number(y) + Number(z ?? 0)).toBe(Number(result));
      }
    }
  });

  it('covers answer lines, steps that come too early and steps that come too late', () => {
    const wrongs = records.map(({ a, b, label }) => ({ right: label === 'a' ? a : b, wrong: label === 'a' ? b : a }));
    const count = (test: (pair: { right: string; wrong: string }) => boolean) => wrongs.filter(test).length;
    const isAnswer = (text: string) => text.startsWith('Answer: ');
    expect(count(({ right, wrong }) => isAnswer(right) && isAnswer(wrong))).toBeGreaterThan(50);
    expect(count(({ right, wrong }) => isAnswer(right) && !isAnswer(wrong))).toBeGreaterThan(20);
    expect(count(({ right, wrong }) => !isAnswer(right) && isAnswer(wrong))).toBeGreaterThan(20);
  });

  it('shows sums with a carry too many as well as too few, so that bigger is not always righter', () => {
    const over = records.filter(({ a, b, label }) => {
      const right = STEP.exec(label === 'a' ? a : b);
      const wrong = STEP.exec(label === 'a' ? b : a);
      if (!right || !wrong || right.slice(1, 5).join() !== wrong.slice(1, 5).join()) return false;
      return Number(wrong[5]) - Number(right[5]) === (right[3] === '+' ? 10 : -10);
    });
    expect(over.length / records.length).toBeGreaterThan(0.1);
  });

  it('does not share problems between splits', () => {
    const train = new Set(records.map(({ problem }) => problem));
    expect(makeEft({ split: 'held-out', count: 500, seed: 1 }).some(({ problem }) => train.has(problem))).toBe(false);
  });
});
