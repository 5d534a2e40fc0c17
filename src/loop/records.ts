// Problems, demonstrations and judged pairs from a recipe's sources or a file, checked line by line. Gold answers come
// out apart from the problems, so that nothing downstream of a Problem can see one.

import { z } from 'zod';
import { makeEft, makeIft, makeProblems } from '../arithmetic/index.js';
import { describeIssues } from '../config/issues.js';
import type { EftSource, IftSource, ProblemSource } from '../config/sources.js';
import { readJsonl } from '../data/jsonl.js';
import { StepwardError } from '../errors.js';
import { cutSolution, type EftRecord, type IftRecord, type LabelledPair } from '../prompts/examples.js';

/** What search, judging and selection see of a problem. */
export interface Problem {
  id: string;
  problem: string;
}

/** Gold answers by problem id; only records and evaluation look at them. */
export type GoldAnswers = Map<string, string>;

export interface ProblemSet {
  problems: Problem[];
  answers: GoldAnswers;
}

const id = z.union([z.string(), z.number()]).optional();
const text = z.string().refine((value) => value.trim() !== '', 'expected a text that is not blank');

const problemLine = z.looseObject({
  id,
  problem: text.optional(),
  question: text.optional(),
  answer: z.union([z.string(), z.number()]).optional(),
});
const iftLine = z.looseObject({ id, problem: text, steps: z.array(text).min(1).optional(), solution: text.optional() });
const pairLine = z.looseObject({ id, problem: text, steps: z.array(text).default([]), a: text, b: text });
const label = z.enum(['a', 'b']);
const eftLine = pairLine.extend({ critique: text, label });
const labelledLine = pairLine.extend({ label });
const judgeLine = pairLine.extend({ label: label.optional() });

export type JudgeRecord = Omit<LabelledPair, 'label' | 'id'> & { id: string; label?: 'a' | 'b' };

/** `needAnswer`: every record must have one. Ids default to the line number and must not repeat. */
export async function readProblems(path: string, needAnswer = false): Promise<ProblemSet> {
  const problems: Problem[] = [];
  const answers: GoldAnswers = new Map();
  const seen = new Set<string>();
  for await (const { line, record } of readChecked(path, problemLine)) {
    const problem = record.problem ?? record.question;
    if (problem === undefined) throw bad(path, line, 'expected the key problem or question, found neither');
    if (needAnswer && record.answer === undefined)
      throw bad(path, line, 'answer: expected a text or number, which is missing');
    const key = String(record.id ?? line);
    if (seen.has(key)) throw bad(path, line, `id: expected each id once, got ${JSON.stringify(key)} again`);
    seen.add(key);
    problems.push({ id: key, problem });
    if (record.answer !== undefined) answers.set(key, String(record.answer));
  }
  return { problems, answers };
}

export async function readIft(path: string, delimiter: string): Promise<IftRecord[]> {
  const records: IftRecord[] = [];
  for await (const { line, record } of readChecked(path, iftLine)) {
    const steps = record.steps ?? (record.solution === undefined ? [] : cutSolution(record.solution, delimiter));
    if (steps.length === 0) throw bad(path, line, 'expected the key steps or solution, found neither');
    records.push({ id: String(record.id ?? line), problem: record.problem, steps });
  }
  return records;
}

export async function readEft(path: string): Promise<EftRecord[]> {
  const records: EftRecord[] = [];
  for await (const { line, record } of readChecked(path, eftLine))
    records.push({ ...record, id: String(record.id ?? line) });
  return records;
}

/** Pairs to judge; a label is optional. */
export async function readJudgePairs(path: string): Promise<JudgeRecord[]> {
  const records: JudgeRecord[] = [];
  for await (const { line, record } of readChecked(path, judgeLine)) {
    records.push({ ...record, id: String(record.id ?? line) });
  }
  return records;
}

export async function problemsOf(source: ProblemSource, needAnswer = false): Promise<ProblemSet> {
  if (source.file !== undefined) return readProblems(source.file, needAnswer);
  const made = makeProblems(source.arithmetic as NonNullable<typeof source.arithmetic>);
  return {
    problems: made.map(({ id: key, problem }) => ({ id: key, problem })),
    answers: new Map(made.map(({ id: key, answer }) => [key, answer])),
  };
}

export async function iftOf(source: IftSource, delimiter: string): Promise<IftRecord[]> {
  if (source.file !== undefined) return readIft(source.file, delimiter);
  return makeIft(source.arithmetic as NonNullable<typeof source.arithmetic>);
}

export async function eftOf(source: EftSource): Promise<EftRecord[]> {
  if (source.file !== undefined) return readEft(source.file);
  return makeEft(source.arithmetic as NonNullable<typeof source.arithmetic>);
}

/** Labelled pairs; critiques are not needed and not kept. */
export async function labelledPairsOf(source: EftSource): Promise<(LabelledPair & { id: string })[]> {
  const strip = (record: LabelledPair, key: string | number) => ({
    id: String(record.id ?? key),
    problem: record.problem,
    steps: record.steps,
    a: record.a,
    b: record.b,
    label: record.label,
  });
  if (source.file === undefined) return (await eftOf(source)).map(strip);
  const pairs: (LabelledPair & { id: string })[] = [];
  for await (const { line, record } of readChecked(source.file, labelledLine)) {
    pairs.push(strip({ ...record, id: String(record.id ?? line) }, line));
  }
  return pairs;
}

async function* readChecked<T>(path: string, schema: z.ZodType<T>): AsyncGenerator<{ line: number; record: T }> {
  let count = 0;
  for await (const { line, value } of readJsonl(path)) {
    const result = schema.safeParse(value);
    if (!result.success)
      throw new StepwardError(
        'INVALID_DATA',
        describeIssues(result.error, schema, value, () => `${path}:${line}`),
      );
    count++;
    yield { line, record: result.data };
  }
  if (count === 0) throw new StepwardError('INVALID_DATA', `${path}: expected at least one record, got none`);
}

function bad(path: string, line: number, message: string): StepwardError {
  return new StepwardError('INVALID_DATA', `${path}:${line}: ${message}`);
}
