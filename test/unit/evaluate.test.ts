// Accuracy, judge reports and guards: numbers that must be exactly right.

import { describe, expect, it } from 'vitest';
import { guardsSchema, judgeSchema } from '../../src/config/recipe.js';
import { Grader } from '../../src/eval/grader.js';
import { wilsonInterval } from '../../src/eval/interval.js';
import type { Answer } from '../../src/judge/ask.js';
import { type BothOrders, judgePairs, judgeReport, pairWinner } from '../../src/judge/report.js';
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

  it('calls solutions that are cut off unfinished', async () => {
    const { policy } = await sumsPolicy({ slip: 0 });
    const answers = new Map(problems.map(({ id }) => [id, '1']));
    const cut = await evaluateSolving(policy, { problems, answers }, new Grader(), { maxTokens: 5 });
    expect([cut.report.unfinished, cut.report.correct]).toEqual([6, 0]);
    expect(await solveProblems(policy, [], { maxTokens: 5 })).toEqual([]);
  });

  it('samples a problem the same whatever else is in the file', async () => {
    const { policy } = await sumsPolicy({ slip: 0.5 });
    const options = { maxTokens: 200, samples: 3, temperature: 1, seed: 4 };
    const all = await solveProblems(policy, problems, options);
    expect(await solveProblems(policy, problems.slice(2, 3), options)).toEqual(all.slice(2, 3));
  });
});

describe('judge reports', () => {
  // Of labels a, a, b, b, a.
  const labels = ['a', 'a', 'b', 'b', 'a'] as const;
  const answers: BothOrders[] = [
    [answer('first'), answer('second')], // a, a: right twice
    [answer('first'), answer('first')], // a, b: flips
    [answer('second'), answer('invalid')], // b, none: right once, and b is the winner
    [answer('first'), answer('second')], // a, a: wrong twice
    [answer('tie'), answer('invalid')], // neither
  ];

  it('count single verdicts and pairs, flips, first positions and failures', () => {
    expect(judgeReport(labels, answers)).toEqual({
      n: 5,
      verdict_accuracy: 4 / 10,
      verdict_interval: wilsonInterval(2, 5),
      pair_accuracy: 2 / 5,
      pair_interval: wilsonInterval(2, 5),
      flip_rate: 1 / 3,
      first_rate: 4 / 7,
      parse_failures: 2,
      parse_failure_rate: 2 / 10,
    });
  });

  it('take the winner of a pair from its votes', () => {
    expect(answers.map(pairWinner)).toEqual(['a', 'tie', 'b', 'a', 'tie']);
    expect(pairWinner([answer('invalid'), answer('invalid')])).toBe('invalid');
    expect(pairWinner([answer('tie'), answer('second')])).toBe('a');
  });

  it('have no rates where there is nothing to count', () => {
    expect(judgeReport([], [])).toMatchObject({
      n: 0,
      flip_rate: null,
      first_rate: null,
      parse_failures: 0,
      parse_failure_rate: null,
    });
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

  /** The reward that TRL logs where each of `tokens` tokens fell from one probability to another. */
  const reward = (beta: number, tokens: number, from: number, to: number) => beta * tokens * Math.log(to / from);
  const feed = (guard: ChosenGuard, rewards: readonly number[]) =>
    rewards.map((value) => guard.check({ 'rewards/chosen': value }, rewards.length));

  it('see chosen log-probs fall over ten steps, not one', () => {
    // Tokens of probability 0.9 that fall to 0.5 lost 0.59 nats each, at any beta and length.
    for (const [beta, tokens] of [
      [0.1, 20],
      [0.4, 144],
    ] as const) {
      const messages = feed(
        new ChosenGuard(config, beta, tokens),
        Array.from({ length: 30 }, () => reward(beta, tokens, 0.9, 0.5)),
      );
      expect(messages.slice(0, 9)).toEqual(Array(9).fill(undefined));
      expect(messages[9]).toContain('fell 0.59 nats per token');
    }
    // Falling to 0.7 is 0.25 nats: the usual drift of DPO. One bad step of ten is no collapse either.
    const drift = Array.from({ length: 30 }, () => reward(0.1, 20, 0.9, 0.7));
    expect(feed(new ChosenGuard(config, 0.1, 20), drift)).toEqual(Array(30).fill(undefined));
    const spikes = Array.from({ length: 30 }, (_, i) => (i % 10 === 9 ? reward(0.1, 20, 0.9, 0.05) : 0));
    expect(feed(new ChosenGuard(config, 0.1, 20), spikes)).toEqual(Array(30).fill(undefined));
  });

  it('see a fall from the first step where there is no reference', () => {
    // simpo's rewards are beta times the log-prob per token: 0.9 at first, then 0.5.
    const guard = () => new ChosenGuard(config, 2, 1, 'first step');
    const fallen = [reward(2, 1, 1, 0.9), ...Array.from({ length: 14 }, () => reward(2, 1, 1, 0.5))];
    const messages = feed(guard(), fallen);
    // ln(0.9 / 0.5) = 0.588 nats in nine of ten steps, then in ten.
    expect(messages.slice(0, 9)).toEqual(Array(9).fill(undefined));
    expect(messages[9]).toContain('fell 0.53 nats per token below the first step');
    expect(messages[10]).toContain('fell 0.59 nats per token');
    // Unlikely steps from the start are no fall.
    expect(feed(guard(), Array(15).fill(reward(2, 1, 1, 0.01)))).toEqual(Array(15).fill(undefined));
  });

  it('see a fall in an update of fewer than ten steps, at its last', () => {
    // Step 1 is measured before any update: its reward is 0.
    const collapse = [0, ...Array.from({ length: 3 }, () => reward(0.1, 20, 0.9, 0.4))];
    const messages = feed(new ChosenGuard(config, 0.1, 20), collapse);
    expect(messages.slice(0, 3)).toEqual([undefined, undefined, undefined]);
    // ln(0.9 / 0.4) = 0.81 nats in three of four steps.
    expect(messages[3]).toContain('fell 0.61 nats per token');
    const drift = [0, ...Array.from({ length: 3 }, () => reward(0.1, 20, 0.9, 0.7))];
    expect(feed(new ChosenGuard(config, 0.1, 20), drift)).toEqual(Array(4).fill(undefined));
    expect(feed(new ChosenGuard(config, 0.1, 20), [0])).toEqual([undefined]);
  });
});
