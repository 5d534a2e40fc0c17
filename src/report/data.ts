// Reads a run folder for the report. Whatever is missing or broken is left out; what is broken becomes a note.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { readJsonl } from '../data/jsonl.js';
import type { SolutionRecord } from '../loop/evaluate.js';
import type { Evaluation, SearchSummary } from '../loop/iteration.js';
import type { Manifest } from '../run/manifest.js';
import type { ModelMetrics } from '../run/metrics.js';
import type { StepMetrics, TrainingRecord } from '../training/types.js';
import { isNumber } from './format.js';
import { type PickedTrees, TreePicker } from './pick.js';

/** What the folder of M(n) says. Files are read as they are: any field may be missing or null. */
export interface ModelData {
  name: string;
  metrics: Partial<ModelMetrics>;
  evaluation: Partial<Evaluation>;
  /** The search by the model before it. */
  search?: Partial<SearchSummary & { seconds: number }>;
  training?: Partial<TrainingRecord>;
  /** A line of train.jsonl for each optimiser step. */
  curve: StepMetrics[];
  /** Held-out problems by id: solved or not. */
  solved: Map<string, boolean>;
  trees: PickedTrees;
}

export interface RunData {
  manifest: Partial<Manifest>;
  models: ModelData[];
  /** What could not be read. */
  notes: string[];
}

export async function readRun(directory: string): Promise<RunData> {
  const notes: string[] = [];
  const reader = new Reader(directory, notes);
  const manifest = reader.json<Manifest>('run.json') ?? {};
  const metrics: Partial<ModelMetrics>[] = [];
  await reader.lines<ModelMetrics>('metrics.jsonl', (line) => metrics.push(line));
  const models: ModelData[] = [];
  for (const name of modelNames(directory, metrics)) {
    const curve: StepMetrics[] = [];
    const solved = new Map<string, boolean>();
    const picker = new TreePicker();
    await reader.lines<StepMetrics>(`${name}/train.jsonl`, (line) => curve.push(line as StepMetrics));
    await reader.lines<SolutionRecord>(`${name}/solutions.jsonl`, ({ id, correct }) => {
      if (id !== undefined && correct !== undefined) solved.set(String(id), correct);
    });
    await reader.lines<object>(`${name}/search.jsonl`, (line, number) => {
      if (!picker.add(line)) notes.push(`${name}/search.jsonl:${number}: not a search tree`);
    });
    const search = reader.json<SearchSummary & { seconds: number }>(`${name}/search.json`);
    const training = reader.json<TrainingRecord>(`${name}/train.json`);
    models.push({
      name,
      metrics: metrics.find((line) => line.model === name) ?? {},
      evaluation: reader.json<Evaluation>(`${name}/eval.json`) ?? {},
      ...(search ? { search } : {}),
      ...(training ? { training } : {}),
      curve,
      solved,
      trees: picker.picked(),
    });
  }
  return { manifest, models, notes };
}

class Reader {
  constructor(
    readonly directory: string,
    readonly notes: string[],
  ) {}

  /** undefined where there is no such file. */
  json<T>(name: string): Partial<T> | undefined {
    const path = join(this.directory, name);
    if (!existsSync(path)) return undefined;
    try {
      const value: unknown = JSON.parse(readFileSync(path, 'utf8'));
      if (isObject(value)) return value as Partial<T>;
      this.notes.push(`${name}: not a JSON object`);
    } catch (error) {
      this.notes.push(`${name}: ${(error as Error).message}`);
    }
    return undefined;
  }

  /** Every line that is an object. Ends with a note at the first that is not JSON, as where a run was killed. */
  async lines<T>(name: string, use: (value: Partial<T>, line: number) => void): Promise<void> {
    const path = join(this.directory, name);
    if (!existsSync(path)) return;
    try {
      for await (const { value, line } of readJsonl(path)) {
        if (isObject(value)) use(value as Partial<T>, line);
        else this.notes.push(`${name}:${line}: not a JSON object`);
      }
    } catch (error) {
      this.notes.push((error as Error).message.replace(path, relative(this.directory, path)));
    }
  }
}

/** M1, M2, ...: those with a folder or a line in metrics.jsonl. */
function modelNames(directory: string, metrics: readonly Partial<ModelMetrics>[]): string[] {
  const folders = existsSync(directory) ? readdirSync(directory) : [];
  const named = metrics.map(({ model }) => model).filter((name) => typeof name === 'string');
  const names = [...new Set([...folders, ...named])].filter((name) => /^M\d+$/.test(name));
  return names.sort((a, b) => Number(a.slice(1)) - Number(b.slice(1)));
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function accuracyOf({ evaluation, metrics }: ModelData): number | null {
  return numberOf(evaluation.accuracy, metrics.accuracy);
}

export function judgeAccuracyOf({ evaluation, metrics }: ModelData): number | null {
  return numberOf(evaluation.judge?.verdict_accuracy, metrics.judge_accuracy);
}

/** The first that is a number. */
export function numberOf(...values: unknown[]): number | null {
  return values.find(isNumber) ?? null;
}
