// Demonstrations (IFT) and judged pairs (EFT and pairs to judge) from a recipe's source or a file, checked line by line.

import { z } from 'zod';
import { makeEft, makeIft } from '../arithmetic/index.js';
import type { EftSource, IftSource } from '../config/sources.js';
import { readChecked } from '../data/checked.js';
import { idField } from '../data/records.js';
import { cutSolution, type EftRecord, type IftRecord, type LabelledPair } from '../prompts/examples.js';
import { bad, type Placed, textField as text } from './records.js';
import type { RecordId } from './types.js';

const iftLine = z.looseObject({
  id: idField,
  problem: text,
  steps: z.array(text).min(1).optional(),
  solution: text.optional(),
});
const pairLine = z.looseObject({ id: idField, problem: text, steps: z.array(text).default([]), a: text, b: text });
const label = z.enum(['a', 'b']);
const eftLine = pairLine.extend({ critique: text, label });
const labelledLine = pairLine.extend({ label });
const judgeLine = pairLine.extend({ label: label.optional() });

type Identified<T> = Omit<T, 'id'> & { id: RecordId };
/** A pair to judge; a label is optional. */
export type JudgeRecord = Identified<Omit<LabelledPair, 'label'>> & { label?: 'a' | 'b' | undefined };

export async function readIft(path: string, delimiter: string): Promise<Placed<IftRecord>[]> {
  const records: Placed<IftRecord>[] = [];
  for await (const { line, record } of readChecked(path, () => iftLine)) {
    const place = `${path}:${line}`;
    const steps = record.steps ?? (record.solution === undefined ? [] : cutSolution(record.solution, delimiter));
    if (steps.length === 0) throw bad(place, 'expected the key steps or solution, found neither');
    records.push({ place, record: { id: record.id ?? line, problem: record.problem, steps } });
  }
  return records;
}

/** Critiques that hold the verdict that is not their label's are refused. `verdicts`: the format's. */
export async function readEft(path: string, verdicts: { a: string; b: string }): Promise<Placed<EftRecord>[]> {
  return withOwnVerdict(await readPairs(path, eftLine), verdicts);
}

/** Pairs to judge; a label is optional. */
export function readJudgePairs(path: string): Promise<Placed<JudgeRecord>[]> {
  return readPairs(path, judgeLine);
}

export async function iftOf(source: IftSource, delimiter: string): Promise<Placed<IftRecord>[]> {
  if (source.file !== undefined) return readIft(source.file, delimiter);
  return makeIft(source.arithmetic as NonNullable<typeof source.arithmetic>).map(placed);
}

export async function eftOf(source: EftSource, verdicts: { a: string; b: string }): Promise<Placed<EftRecord>[]> {
  if (source.file !== undefined) return readEft(source.file, verdicts);
  return withOwnVerdict(makeEft(source.arithmetic as NonNullable<typeof source.arithmetic>).map(placed), verdicts);
}

/** Labelled pairs; critiques are not needed and not kept. */
export async function labelledPairsOf(source: EftSource): Promise<Placed<Identified<LabelledPair>>[]> {
  const all =
    source.file === undefined
      ? makeEft(source.arithmetic as NonNullable<typeof source.arithmetic>).map(placed)
      : await readPairs(source.file, labelledLine);
  return all.map(({ place, record: { id, problem, steps, a, b, label } }) => ({
    place,
    record: { id, problem, steps, a, b, label },
  }));
}

function withOwnVerdict<T extends EftRecord>(records: Placed<T>[], verdicts: { a: string; b: string }): Placed<T>[] {
  for (const { place, record } of records) {
    const other = verdicts[record.label === 'a' ? 'b' : 'a'];
    if (!record.critique.includes(other)) continue;
    throw bad(place, `critique: expected no ${other} where the label is ${record.label}, found one`);
  }
  return records;
}

async function readPairs<T extends z.infer<typeof pairLine>>(
  path: string,
  schema: z.ZodType<T>,
): Promise<Placed<T & { id: RecordId }>[]> {
  const records: Placed<T & { id: RecordId }>[] = [];
  for await (const { line, record } of readChecked(path, () => schema)) {
    records.push({ place: `${path}:${line}`, record: { ...record, id: record.id ?? line } });
  }
  return records;
}

function placed<T extends { id: string }>(record: T): Placed<T> {
  return { place: `arithmetic ${record.id}`, record };
}
