// metrics.jsonl: a line per model, gathered from the files of its folder.

import { rmSync } from 'node:fs';
import { JsonlWriter } from '../data/jsonl.js';
import { percent } from '../data/percent.js';
import type { Evaluation, SearchSummary } from '../loop/iteration.js';
import type { ModelFolder } from './folder.js';

/** A line of metrics.jsonl. */
export interface ModelMetrics {
  /** n for Mn. */
  iteration: number;
  model: string;
  accuracy: number | null;
  n: number;
  /** Share of single verdicts that are right: JudgeReport's verdict_accuracy. */
  judge_accuracy: number | null;
  judge_flip_rate: number | null;
  judge_first_rate: number | null;
  /** Pairs it was trained on; 0 for M1. */
  pairs: number;
  mean_steps: number | null;
  mean_step_tokens: number | null;
  /** To make and evaluate it. */
  seconds: number;
}

export function metricsOf(n: number, target: ModelFolder, evaluation: Evaluation): ModelMetrics {
  const search = target.has('search.json')
    ? target.readJson<SearchSummary & { seconds: number }>('search.json')
    : undefined;
  const train = target.has('train.json') ? target.readJson<{ seconds: number }>('train.json') : undefined;
  return {
    iteration: n,
    model: target.name,
    accuracy: evaluation.accuracy ?? null,
    n: evaluation.n ?? 0,
    judge_accuracy: evaluation.judge?.verdict_accuracy ?? null,
    judge_flip_rate: evaluation.judge?.flip_rate ?? null,
    judge_first_rate: evaluation.judge?.first_rate ?? null,
    pairs: search?.pairs ?? 0,
    mean_steps: evaluation.mean_steps ?? null,
    mean_step_tokens: evaluation.mean_step_tokens ?? null,
    seconds: Math.round(1000 * ((search?.seconds ?? 0) + (train?.seconds ?? 0) + evaluation.seconds)) / 1000,
  };
}

export function writeMetrics(path: string, metrics: readonly ModelMetrics[]): void {
  rmSync(path, { force: true });
  const file = new JsonlWriter(path);
  for (const line of metrics) file.write(line);
  file.close();
}

/** "M2: accuracy ...", for the reader. */
export function describeModel(metrics: ModelMetrics): string {
  const { model, accuracy, n, judge_accuracy, pairs, seconds } = metrics;
  const trained = pairs > 0 ? `, from ${pairs} pairs` : '';
  return `${model}: accuracy ${percent(accuracy)} on ${n} held-out problems, judge accuracy ${percent(judge_accuracy)}${trained} (${seconds.toFixed(1)} s)`;
}
