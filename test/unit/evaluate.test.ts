// Accuracy, judge reports and guards: numbers that must be exactly right.

import { describe, expect, it } from 'vitest';
import { guardsSchema, judgeSchema } from '../../src/config/recipe.js';
import { Grader } from '../../src/eval/grader.js';
import type { Answer } from '../../src/judge/ask.js';
import { judgePairs, judgeReport } from '../../src/judge/report.js';
import { evaluateSolving, solveProblems } from '../../src/loop/evaluate.js';
import { ChosenGuard, judgeGuard } from '../../src/run/guards.js';
import { sumsPolicy } from '../helpers/sums.js';

const answer = (winner: Answer['winner']): Answer => ({ winner, pFirst: null });

describe('accuracy', () => {
  const problems = Array.from({ length: 6 }, (_, i) => ({ id: `p${i}`, problem: `${i}+1+2` }));

  it('counts right answers, steps and tokens', async () => {
    const { policy } = await sumsPolicy({ slip: 0 });
    const answers = new Map(problems.map(({ id }, i) => [id, i < 4 ? String(i + 3) : '99']));
    const { report, records } = await evaluateSolving(policy, { problems, answers }, new Grader(), { maxTokens: 200 });
    expect(report).toMatchObject({ n: 6, correct: 4, accuracy: 4 / 6, mean_steps: 3, unfinished: 0 });
    const tokens = records.reduce((sum, record) => sum + record.tokens, 0);
    expect(report.mean_step_tokens).toBe(tokens / 18);
    expect(records[0]).toMatchObject({ answer: '3', gold: '3', correct: true, finish: 'eos' });
  });

  it('calls solutions that are cut off unfinished, and empty where the prompt does not fit', async () => {
    const { policy } = await sumsPolicy({ slip: 0 });
    const cut = await evaluateSolving(
      policy,
      { problems, answers: new Map(problems.map(({ id }) => [id, '1'])) },
      new Grader(),
      { maxTokens: 5 },
    );
    expect([cut.report.unfinished, cut.report.correct]).toEqual([6, 0]);
    const { policy: short, engine } = await sumsPolicy({ slip: 0, maxPositions: 10 });
    expect((await solveProblems(short, problems, { maxTokens: 5 }))[0]).toEqual([
      { text: '', tokens: 0, steps: 0, answer: null, finish: 'length' },
    ]);
    expect(engine.requests.length).toBe(0);
  });

  it('samples a problem the same whatever else is in the file', async () => {
    const { policy } = await sumsPolicy({ slip: 0.5 });
    const options = { maxTokens: 200, samples: 3, temperature: 1, seed: 4 };
    const all = await solveProblems(policy, problems, options);
    expect(await solveProblems(policy, problems.slice(2, 3), options)).toEqual(all.slice(2, 3));
  });
});

describe('judge reports', () => {
  it('count both orders, flips, first positions and failures', () => {
    const report = judgeReport(
      ['a', 'a', 'b', 'b'],
      [
        [answer('first'), answer('second')], // a, a: right twice
        [answer('first'), answer('first')], // a, b: flips
        [answer('second'), answer('invalid')], // b, none
        [answer('first'), answer('second')], // a, a: wrong twice
      ],
    );
    expect(report).toEqual({
      n: 4,
      accuracy: 4 / 8,
      consistent_accuracy: 1 / 4,
      interval: [expect.any(Number), expect.any(Number)],
      flip_rate: 1 / 3,
      first_rate: 4 / 7,
      parse_failures: 1 / 8,
    });
  });

  it('have no rates where there is nothing to count', () => {
    expect(judgeReport([], [])).toMatchObject({ n: 0, flip_rate: null, first_rate: null });
  });

  it('ask each pair in both orders', async () => {
    const { policy, engine } = await sumsPolicy({});
    const pairs = [{ id: 'x', problem: '1+2', steps: [], a: 'Step 1: 1+2=3', b: 'Step 1: 1+2=4' }];
    const answers = await judgePairs(policy, pairs, { judge: judgeSchema.parse({}) });
    expect(answers.map((orders) => orders.map(({ winner }) => winner))).toEqual([['first', 'second']]);
    expect(answers[0]?.[0].critique).toBe('A is as good or better. [[A]]');
    expect(answers[0]?.[0].pFirst).toBeCloseTo(Math.exp(-0.25), 6);
    expect(answers[0]?.[1].pFirst).toBeCloseTo(1 - Math.exp(-0.25), 6);
    expect(engine.requests.length).toBe(1);
  });
});

describe('guards', () => {
  const config = guardsSchema.parse({});

  it('see a judge near chance and one that falls fast', () => {
    expect(judgeGuard(config, 0.55, undefined)).toContain('55.0%, below guards.judge_accuracy 60.0%');
    expect(judgeGuard(config, 0.8, 0.95)).toContain('fell from 95.0% to 80.0%');
    expect(judgeGuard(config, 0.9, 0.95)).toBeUndefined();
    expect(judgeGuard(config, 0.65, undefined)).toBeUndefined();
  });

  it('see chosen log-probs fall over ten steps, not one', () => {
    const guard = new ChosenGuard(config, 0.1, 10);
    // A reward of -1 at beta 0.1 is 10 nats below the reference, 1 a token.
    for (let step = 0; step < 9; step++) expect(guard.check({ 'rewards/chosen': -1 })).toBeUndefined();
    expect(guard.check({ 'rewards/chosen': -1 })).toContain('fell 1.00 nats per token');
    const calm = new ChosenGuard(config, 0.1, 10);
    for (let step = 0; step < 30; step++)
      expect(calm.check({ 'rewards/chosen': step % 10 === 9 ? -2 : -0.2 })).toBeUndefined();
  });
});
