// Problems from a recipe's source or a file, checked line by line. Gold answers come out apart from the problems, so that
// nothing downstream of a Problem can see one. Demonstrations and judged pairs are in example-records.ts.

import { z } from 'zod';
import { makeProblems } from '../arithmetic/index.js';
import type { ProblemSource } from '../config/sources.js';
import { readChecked } from '../data/checked.js';
import { idField } from '../data/records.js';
import { StepwardError } from '../errors.js';
import type { RecordId } from './types.js';

/** What search, judging and selection see of a problem. */
export interface Problem {
  id: RecordId;
  problem: string;
}

/** Gold answers by the problem id's text form; only records and evaluation look at them. */
export type GoldAnswers = Map<string, string>;

export interface ProblemSet {
  problems: Problem[];
  answers: GoldAnswers;
}

/** A record and where it stands, for messages: "FILE:LINE", or the id of a generated one. */
export interface Placed<T> {
  place: string;
  record: T;
}

export interface PlacedProblems {
  problems: Placed<Problem>[];
  answers: GoldAnswers;
}

export const textField = z.string().refine((value) => value.trim() !== '', 'expected a text that is not blank');

const problemLine = z.looseObject({
  id: idField,
  problem: textField.optional(),
  question: textField.optional(),
  answer: z.union([z.string(), z.number()]).optional(),
});

/** `needAnswer`: every record must have one. Ids default to the line number and must not repeat. */
export async function readProblems(path: string, needAnswer = false): Promise<PlacedProblems> {
  const problems: Placed<Problem>[] = [];
  const answers: GoldAnswers = new Map();
  const seen = new Map<string, { id: RecordId; line: number }>();
  for await (const { line, record } of readChecked(path, () => problemLine)) {
    const place = `${path}:${line}`;
    const problem = record.problem ?? record.question;
    if (problem === undefined)
      throw bad(place, `expected the key problem or question, found ${Object.keys(record).join(', ') || 'no key'}`);
    if (needAnswer && record.answer === undefined) {
      throw bad(place, 'answer: expected a text or number, which is missing');
    }
    const id = record.id ?? line;
    const key = String(id);
    const other = seen.get(key);
    if (other) {
      const [now, before] = [JSON.stringify(id), JSON.stringify(other.id)];
      throw bad(place, `id: expected each id once, got ${now}, and line ${other.line} has ${before}`);
    }
    seen.set(key, { id, line });
    problems.push({ place, record: { id, problem } });
    if (record.answer !== undefined) answers.set(key, String(record.answer));
  }
  return { problems, answers };
}

export async function problemsOf(source: ProblemSource, needAnswer = false): Promise<PlacedProblems> {
  if (source.file !== undefined) return readProblems(source.file, needAnswer);
  const made = makeProblems(source.arithmetic as NonNullable<typeof source.arithmetic>);
  return {
    problems: made.map(({ id, problem }) => ({ place: `arithmetic ${id}`, record: { id, problem } })),
    answers: new Map(made.map(({ id, answer }) => [id, answer])),
  };
}

export function bad(place: string, message: string): StepwardError {
  return new StepwardError('INVALID_DATA', `${place}: ${message}`);
}
