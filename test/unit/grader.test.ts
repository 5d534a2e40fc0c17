// Finding answers and comparing them, within bounded time whatever they say.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { extractAnswer, goldAnswer } from '../../src/eval/answer.js';
import { equivalent, gradePlain } from '../../src/eval/grade.js';
import { Grader } from '../../src/eval/grader.js';
import { wilsonInterval } from '../../src/eval/interval.js';
import { gradeSamples } from '../../src/eval/samples.js';
import { answerSchema } from '../../src/prompts/format.js';

const grader = new Grader();
afterAll(() => grader.close());

describe('answers in solutions', () => {
  const format = answerSchema.parse({});
  it.each([
    ['so \\boxed{42}.', '42'],
    ['\\boxed{1} no, \\boxed{\\frac{1}{2}}', '\\frac{1}{2}'],
    ['it is \\boxed 7.', '7'],
    ['Answer: 12\nmore 13', '12'],
    ['#### 1,234', '1,234'],
    ['The answer is 5.', '5'],
    ['The answer is 42 dollars.', '42 dollars'],
    ['Answer: **7**', '7'],
    ['**Answer:** 7\nbye', '7'],
    ['so the **answer is `7`**.', '7'],
    ['Step 1: 3 + 4 = 7\nStep 2: 7 - 2 = 5', '5'],
    ['half of it, 3/4', '3/4'],
    ['from 10-12', '12'],
    ['nothing here', null],
    ['\\boxed{never closed', null],
    ['', null],
  ])('%s', (text, answer) => {
    expect(extractAnswer(text, format)).toBe(answer);
  });

  it('looks only where it is told to', () => {
    expect(extractAnswer('\\boxed{1} Answer: 2', answerSchema.parse({ find: ['marker'], markers: ['Answer:'] }))).toBe(
      '2',
    );
    expect(extractAnswer('\\boxed{1}', answerSchema.parse({ find: ['marker'], markers: ['Answer:'] }))).toBeNull();
  });

  it('takes the answer out of a gold solution', () => {
    expect(goldAnswer('She has 3 + 4 = <<3+4=7>>7 apples.\n#### 7')).toBe('7');
    expect(goldAnswer('Therefore $\\boxed{x^2}$.')).toBe('x^2');
    expect(goldAnswer(' 12 ')).toBe('12');
  });
});

describe('grading', () => {
  it.each([
    ['42', '42.0'],
    ['1,234', '1234'],
    ['0.5', '\\frac{1}{2}'],
    ['\\dfrac12', '1/2'],
    ['-3/4', '-0.75'],
    ['1 1/2', '1.5'],
    ['10,\\!080', '10080'],
    ['10\\,080', '10080'],
    ['( 1, x + 2 )', '(1,x+2)'],
    ['2\\frac{1}{3}', '7/3'],
    ['$18', '18'],
    ['50\\%', '50'],
    ['x = 5', '5'],
    ['\\text{Yes}', 'yes'],
    ['90^\\circ', '90'],
    ['1{,}000', '1000'],
    ['1{,}234{,}567', '1,234,567'],
    ['5\\text{ cm}', '5'],
    ['5\\text{cm}', '5 cm'],
    ['$12\\,\\mathrm{cm}^2$', '12'],
    ['42 dollars', '42'],
    ['\\$42', '42 dollars'],
    ['1 1/2 cups', '1.5'],
    ['3 apples', '3 apple'],
    ['60 km/h', '60'],
    ['.5', '0.50'],
    ['3.', '3'],
    ['\\left(1, 2\\right)', '(1,2)'],
  ])('%s is %s', (predicted, gold) => {
    expect(gradePlain(predicted, gold)).toBe(true);
  });

  it.each([
    ['41', '42'],
    ['1/3', '0.33'],
    ['1 1/2', '11/2'],
    ['5\\text{ m}', '5\\text{ cm}'],
    ['5 dollars', '6 dollars'],
    ['', '42'],
    ['42', ''],
  ])('%s is not %s', (predicted, gold) => {
    expect(gradePlain(predicted, gold)).toBe(false);
  });

  it.each([
    ['2\\sqrt{3}', '\\sqrt{12}', true],
    ['\\frac{\\pi}{2}', 'pi/2', true],
    ['(x+1)^2', 'x^2+2x+1', true],
    ['(x+1)^2', 'x^2+1', false],
    ['2^{10}', '1024', true],
    ['(1, \\frac{1}{2})', '(1, 0.5)', true],
    ['(1, 2)', '[1, 2]', false],
    ['(1, 2)', '(2, 1)', false],
    ['\\{1, 2\\}', '\\{1, 2.0\\}', true],
    ['\\sqrt[3]{8}', '2', true],
    ['x', 'y', false],
    ['1/0', '2/0', false],
    ['hello there', 'goodbye', false],
    ['5 million', '5', false],
    ['5 or six', '5', false],
    ['12 \\text{ and } 13', '12', false],
    ['5xy', '5', false],
    ['5 x', '5', false],
    ['2 pi', '2', false],
  ])('%s and %s: %s', async (predicted, gold, same) => {
    expect(equivalent(predicted, gold)).toBe(same);
    expect(await grader.grade(predicted, gold)).toBe(same);
  });

  it('does not hang on towers of powers, depth or length', async () => {
    const start = performance.now();
    const deep = `${'('.repeat(400)}1${')'.repeat(400)}`;
    const given = [
      '9^{9^{9}}',
      '9^{9^{9^{9^{9}}}}',
      '9^9^9^9',
      '(10!)!',
      '10^{-9^{9}}',
      deep,
      `1${'+1'.repeat(5000)}`,
      '1'.repeat(100_000),
      `${'{'.repeat(50_000)}`,
    ];
    for (const answer of given) expect(await grader.grade(answer, '5')).toBe(false);
    expect(await grader.grade('9^{9^{9}}', '9^{9^{9}}')).toBe(true);
    expect(performance.now() - start).toBeLessThan(5000);
  });

  it('kills a comparison that runs too long and goes on', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'stepward-grader-'));
    const file = join(directory, 'stuck.mjs');
    writeFileSync(
      file,
      `import { parentPort } from 'node:worker_threads';
      parentPort.on('message', ({ predicted }) => { while (predicted === 'x+1'); parentPort.postMessage({ same: true }); });`,
    );
    const stuck = new Grader({ timeLimitMs: 300, worker: pathToFileURL(file) });
    const answers = await Promise.all([stuck.grade('x+1', 'x+2'), stuck.grade('x+3', 'x+4')]);
    expect(answers).toEqual([false, true]);
    await stuck.close();
    rmSync(directory, { recursive: true });
  });

  it('finds the majority, the earliest of equals', async () => {
    const graded = await gradeSamples(['7', '8', '7.0', null, '8'], '7', grader);
    expect(graded).toEqual({ correct: [true, false, true, false, false], majority: '7', majorityCorrect: true });
    expect(await gradeSamples([null], '7', grader)).toEqual({
      correct: [false],
      majority: null,
      majorityCorrect: false,
    });
  });
});

describe("Wilson's interval", () => {
  it('agrees with published values', () => {
    // 8 of 10: 0.4902 to 0.9433 (Newcombe 1998, table I, method 3 at these values).
    const [low, high] = wilsonInterval(8, 10);
    expect(low).toBeCloseTo(0.4902, 4);
    expect(high).toBeCloseTo(0.9433, 4);
  });

  it('stays within 0 and 1', () => {
    expect(wilsonInterval(0, 10)[0]).toBe(0);
    expect(wilsonInterval(10, 10)[1]).toBe(1);
    expect(wilsonInterval(0, 0)).toEqual([0, 1]);
  });
});
