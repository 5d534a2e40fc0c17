// Lines of a JSON lines file that fit a schema. Every error names FILE:LINE and the field.

import type { z } from 'zod';
import { describeIssues } from '../config/issues.js';
import { StepwardError } from '../errors.js';
import { clip, readJsonl } from './jsonl.js';

export interface CheckedLine<T> {
  /** 1 for the first. */
  line: number;
  record: T;
}

/** The lines in order, at least one. `schemaOf` may choose the schema by what the line holds. Throws INVALID_DATA. */
export async function* readChecked<T>(
  path: string,
  schemaOf: (value: Record<string, unknown>) => z.ZodType<T>,
): AsyncGenerator<CheckedLine<T>> {
  let count = 0;
  for await (const { line, value } of readJsonl(path)) {
    const fail = (message: string) => new StepwardError('INVALID_DATA', message);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw fail(`${path}:${line}: expected a JSON object, got ${clip(JSON.stringify(value))}`);
    }
    const schema = schemaOf(value as Record<string, unknown>);
    const result = schema.safeParse(value);
    if (!result.success) throw fail(describeIssues(result.error, schema, value, () => `${path}:${line}`));
    count++;
    yield { line, record: result.data };
  }
  if (count === 0) throw new StepwardError('INVALID_DATA', `${path}: expected at least one record, got none`);
}

/** What is wrong where the parts of a sequence, lengths by name, do not fit the model; undefined where they do. */
export function tooLong(parts: Record<string, number>, maxPositions: number): string | undefined {
  return lengthIssue(parts, maxPositions, "the model's positions");
}

/** As `tooLong`, for a limit that `what` names. */
export function lengthIssue(parts: Record<string, number>, most: number, what: string): string | undefined {
  const total = Object.values(parts).reduce((sum, length) => sum + length, 0);
  if (total <= most) return undefined;
  const listed = Object.entries(parts).map(([name, length]) => `${name} ${length}`);
  return `expected at most ${most} tokens, ${what}, got ${total} (${listed.join(' + ')})`;
}
