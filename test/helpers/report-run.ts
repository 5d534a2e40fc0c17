// A small run folder for the report's tests: M1 evaluated, M2 searched, trained and evaluated.

import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { SearchRecord, VerdictRecord } from '../../src/loop/search-record.js';

export type Files = Record<string, string>;

const lines = (values: readonly object[]) => values.map((value) => `${JSON.stringify(value)}\n`).join('');

export function verdict(
  first: number,
  second: number,
  winner: VerdictRecord['winner'],
  critique?: string,
): VerdictRecord {
  return { first, second, winner, p_first: winner === 'first' ? 0.9 : 0.1, ...(critique ? { critique } : {}) };
}

/** One step with two candidates, judged in both orders; without `pair` the orders disagree. */
export function tree(
  id: string,
  { pair = true, correct, ...rest }: Partial<SearchRecord> & { pair?: boolean } = {},
): SearchRecord {
  const candidate = (text: string, wins: number) => ({
    ids: [1, 2],
    text,
    logprob: -0.5,
    count: 2,
    wins,
    finish: 'stop' as const,
  });
  return {
    id,
    problem: `Problem ${id}?`,
    prompt_ids: [1],
    steps: [
      {
        candidates: [candidate('Step 1: right\n', pair ? 1 : 0.5), candidate('Step 1: wrong\n', pair ? 0 : 0.5)],
        verdicts: [
          verdict(0, 1, 'first', 'A is right. [[A]]'),
          verdict(1, 0, pair ? 'second' : 'first', 'So is it here.'),
        ],
        chosen: 0,
        rejected: pair ? 1 : null,
        outcome: pair ? 'pair' : 'cap',
      },
    ],
    solution: 'Step 1: right',
    answer: '7',
    finish: 'eos',
    rollbacks: 0,
    discarded: [],
    ...(correct === undefined ? {} : { gold: correct ? '7' : '8', correct }),
    ...rest,
  };
}

const step = (n: number) => ({
  step: n,
  loss: 0.7 - 0.01 * n,
  grad_norm: 1,
  'rewards/chosen': 0.01 * n,
  'rewards/rejected': -0.01 * n,
  'rewards/accuracies': 0.75,
  'rewards/margins': 0.02 * n,
  'logps/chosen': -2 + 0.1 * n,
  'logps/rejected': -2.5,
});
const judge = {
  n: 10,
  verdict_accuracy: 0.9,
  verdict_interval: [0.6, 0.98],
  pair_accuracy: 0.8,
  pair_interval: [0.49, 0.94],
  flip_rate: 0.1,
  first_rate: 0.4,
  parse_failures: 0,
  parse_failure_rate: 0,
};
const solution = (id: string, correct: boolean) => ({ id, correct });

/** Every file of the run. */
export function runFiles(): Files {
  const metrics = {
    n: 10,
    judge_accuracy: 0.9,
    judge_flip_rate: 0.1,
    judge_first_rate: 0.4,
    mean_steps: 2,
    mean_step_tokens: 9,
  };
  return {
    'run.json': JSON.stringify({
      recipe: {
        name: 'sums',
        model: './m1',
        update: { loss: 'sigmoid', sft_weight: 0 },
        guards: { judge_accuracy: 0.6 },
      },
      seed: 5,
      versions: { stepward: '0.1.0', node: '20.0.0', torch: '2.13.0' },
      device: 'cpu',
      cpu_capability: 'AVX2',
      threads: 2,
      state: 'finished',
      times: { started: '2026-01-01T10:00:00.000Z', ended: '2026-01-01T10:02:05.000Z' },
    }),
    'metrics.jsonl': lines([
      { iteration: 1, model: 'M1', accuracy: 0.5, pairs: 0, seconds: 3, ...metrics },
      { iteration: 2, model: 'M2', accuracy: 0.6, pairs: 2, seconds: 9, ...metrics },
    ]),
    'M1/eval.json': JSON.stringify({
      model: 'M1',
      n: 10,
      correct: 5,
      accuracy: 0.5,
      interval: [0.24, 0.76],
      judge,
      seconds: 3,
    }),
    'M1/solutions.jsonl': lines([solution('h0', true), solution('h1', false), solution('h2', false)]),
    'M2/eval.json': JSON.stringify({
      model: 'M2',
      n: 10,
      correct: 6,
      accuracy: 0.6,
      interval: [0.31, 0.83],
      judge,
      seconds: 3,
    }),
    'M2/solutions.jsonl': lines([solution('h0', false), solution('h1', true), solution('h2', true)]),
    'M2/search.jsonl': lines([
      tree('q0', { correct: true }),
      tree('q1', { correct: false }),
      tree('q2', { pair: false }),
    ]),
    'M2/search.json': JSON.stringify({
      problems: 3,
      pairs: 2,
      verdicts: 6,
      flips: 1,
      both_orders: 3,
      decided: 6,
      first_wins: 4,
      parse_failures: 0,
      generated_tokens: 1234,
      judge_generated_tokens: 567,
      computed_tokens: 1000,
      prefix_free_tokens: 3800,
      flip_rate: 1 / 3,
      first_rate: 2 / 3,
      rollbacks: 0,
      mean_steps: 1,
      finish: { eos: 3, max_steps: 0, length: 0 },
      accuracy: 0.5,
      seconds: 4,
    }),
    'M2/train.jsonl': lines([1, 2, 3].map(step)),
    'M2/train.json': JSON.stringify({
      steps: 3,
      pairs: 2,
      tokens: 400,
      computed_tokens: 200,
      final_loss: 0.67,
      seconds: 2,
    }),
  };
}

/** Writes files into a new folder under the system's temporary one; the folder. */
export function writeRun(files: Files): string {
  const directory = mkdtempSync(join(tmpdir(), 'stepward-report-'));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, name)), { recursive: true });
    writeFileSync(join(directory, name), content);
  }
  return directory;
}
