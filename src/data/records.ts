// From lines of a file to checked token ids: what all record forms share, and the records of `score` and `generate`.
// Every error names FILE:LINE and the field; all lines are checked before any of them is used.

import { z } from 'zod';
import { StepwardError } from '../errors.js';
import { readChecked, tooLong } from './checked.js';
import type { TextCodec } from './codec.js';
import { clip } from './jsonl.js';
import type { LengthLimit } from './length.js';

/** What the records of a model must fit. */
export interface RecordLimits {
  /** Named where text comes without a tokenizer. */
  directory: string;
  codec: TextCodec | undefined;
  vocabSize: number;
  maxPositions: number;
}

export const idField = z.union([z.string(), z.number()]).optional();
export const idsField = z.array(z.number().int());

/** A line that fits `schema`, and the means to read its fields as ids. */
export class RecordReader<T> {
  constructor(
    readonly path: string,
    readonly line: number,
    readonly record: T,
    readonly limits: RecordLimits,
  ) {}

  error(
    field: string,
    message: string,
    code: 'INVALID_DATA' | 'TOKEN_OUT_OF_RANGE' | 'CONTEXT_TOO_LONG' = 'INVALID_DATA',
  ): StepwardError {
    return new StepwardError(code, `${this.path}:${this.line}: ${field}: ${message}`);
  }

  /**
   * The ids of a field that stands as `name` (text) or `name_ids`; ids win where both stand, and must say what the text
   * says. `special`: text is encoded as a whole prompt by the tokenizer's defaults; else as a continuation. Undefined where
   * neither is there.
   */
  field(
    name: string,
    text: string | undefined,
    ids: number[] | undefined,
    options: { special?: boolean } = {},
  ): number[] | undefined {
    if (ids) {
      this.checkIds(`${name}_ids`, ids);
      if (text !== undefined) this.checkSame(`${name}_ids`, ids, name, text);
      return ids;
    }
    if (text === undefined) return undefined;
    return this.text(name, text, options);
  }

  /** As `field`, but it must be there and hold a token. */
  required(
    name: string,
    text: string | undefined,
    ids: number[] | undefined,
    options: { special?: boolean } = {},
  ): number[] {
    const found = this.field(name, text, ids, options);
    if (!found) throw this.error(name, `expected text, or ids as ${name}_ids, which is missing`);
    return this.notEmpty(ids ? `${name}_ids` : name, found);
  }

  text(field: string, text: string, options: { special?: boolean } = {}): number[] {
    const ids = this.codec(field).encode(text, options.special ? { special: true } : { continuation: true });
    const { vocabSize, directory } = this.limits;
    const wrong = ids.find((id) => id >= vocabSize);
    if (wrong === undefined) return ids;
    throw this.error(
      field,
      `expected ids below the model's vocabulary of ${vocabSize}, and the tokenizer of ${directory} gives ${wrong}: ` +
        "it is another model's",
      'TOKEN_OUT_OF_RANGE',
    );
  }

  /**
   * Ids of another tokenizer are numbers like any other: only their text tells. White space and special tokens may differ.
   * Fields are given by their names; no ids and no tokenizer are no text to compare.
   */
  checkSame(idsField: string, ids: number[], textField: string, text: string): void {
    const { codec, directory } = this.limits;
    if (!codec || ids.length === 0) return;
    const bare = (value: string): string => value.replace(/\s+/g, '');
    const read = codec.decode(ids, { keepSpecial: true });
    if (bare(read) === bare(text) || bare(codec.decode(ids)) === bare(text)) return;
    throw this.error(
      idsField,
      `expected the ids of ${textField} under the tokenizer of ${directory}, which is ${clip(text)}; they read ${clip(read)}`,
    );
  }

  codec(field: string): TextCodec {
    if (this.limits.codec) return this.limits.codec;
    const directory = this.limits.directory;
    throw this.error(field, `expected token ids (${field}_ids), got text, and ${directory} has no tokenizer.json`);
  }

  checkIds(field: string, ids: number[]): number[] {
    const { vocabSize } = this.limits;
    for (const [i, id] of ids.entries()) {
      if (id < 0 || id >= vocabSize) {
        throw this.error(
          `${field}[${i}]`,
          `expected a token id from 0 to ${vocabSize - 1}, got ${id}`,
          'TOKEN_OUT_OF_RANGE',
        );
      }
    }
    return ids;
  }

  notEmpty(field: string, ids: number[]): number[] {
    if (ids.length === 0) throw this.error(field, 'expected at least one token, got none');
    return ids;
  }

  /**
   * `parts`: lengths by what they are, as they follow each other in the longest sequence. `limit`: default the model's
   * positions. Throws CONTEXT_TOO_LONG where they are more, unless the limit is one to cut at: then it is false.
   */
  fits(field: string, parts: Record<string, number>, limit?: LengthLimit): boolean {
    const message = limit ? limit.issue(parts) : tooLong(parts, this.limits.maxPositions);
    if (message === undefined) return true;
    if (limit?.tooLong === 'cut') return false;
    throw this.error(field, message, 'CONTEXT_TOO_LONG');
  }
}

/** Lines that fit a schema. `schemaOf` may choose it by what the line holds. */
export async function* readRecords<T>(
  path: string,
  limits: RecordLimits,
  schemaOf: (value: Record<string, unknown>) => z.ZodType<T>,
): AsyncGenerator<RecordReader<T>> {
  for await (const { line, record } of readChecked(path, schemaOf)) yield new RecordReader(path, line, record, limits);
}

export interface ScoreRecord {
  id: string | number;
  promptIds: number[];
  steps: number[][];
  candidates: number[][];
}

const scoreSchema = z.looseObject({
  id: idField,
  prompt: z.string().optional(),
  prompt_ids: idsField.optional(),
  steps: z.array(z.string()).optional(),
  steps_ids: z.array(idsField).optional(),
  candidates: z.array(z.string()).optional(),
  candidates_ids: z.array(idsField).optional(),
});

/** Ids default to the line number. */
export async function readScoreRecords(path: string, limits: RecordLimits): Promise<ScoreRecord[]> {
  const records: ScoreRecord[] = [];
  for await (const reader of readRecords(path, limits, () => scoreSchema)) {
    const { record, line } = reader;
    const promptIds = promptOf(reader);
    const steps = listOf(reader, 'steps', record.steps, record.steps_ids);
    const candidates = listOf(reader, 'candidates', record.candidates, record.candidates_ids);
    if (steps.length + candidates.length === 0) {
      throw reader.error('steps', 'expected steps or candidates to score, found neither');
    }
    reader.fits('record', {
      prompt: promptIds.length,
      steps: steps.reduce((sum, ids) => sum + ids.length, 0),
      'longest candidate': candidates.reduce((longest, ids) => Math.max(longest, ids.length), 0),
    });
    records.push({ id: record.id ?? line, promptIds, steps, candidates });
  }
  return records;
}

export interface GenerateRecord {
  id: string | number;
  promptIds: number[];
}

const generateSchema = z.looseObject({ id: idField, prompt: z.string().optional(), prompt_ids: idsField.optional() });

/** Ids default to the line number. A prompt must leave room for one new token. */
export async function readGenerateRecords(path: string, limits: RecordLimits): Promise<GenerateRecord[]> {
  const records: GenerateRecord[] = [];
  for await (const reader of readRecords(path, limits, () => generateSchema)) {
    const promptIds = promptOf(reader);
    reader.fits('prompt', { prompt: promptIds.length, 'one new token': 1 });
    records.push({ id: reader.record.id ?? reader.line, promptIds });
  }
  return records;
}

/** The prompt of any record that has one. */
export function promptOf(
  reader: RecordReader<{ prompt?: string | undefined; prompt_ids?: number[] | undefined }>,
): number[] {
  const { prompt, prompt_ids } = reader.record;
  return reader.required('prompt', prompt, prompt_ids, { special: true });
}

function listOf<T>(
  reader: RecordReader<T>,
  name: string,
  texts: string[] | undefined,
  ids: number[][] | undefined,
): number[][] {
  if (ids && texts && ids.length !== texts.length) {
    throw reader.error(
      `${name}_ids`,
      `expected the ids of the ${texts.length} ${name} that stand there as text, got ${ids.length}`,
    );
  }
  if (ids) {
    return ids.map((list, i) => {
      reader.checkIds(`${name}_ids[${i}]`, list);
      if (texts) reader.checkSame(`${name}_ids[${i}]`, list, `${name}[${i}]`, texts[i] as string);
      return list;
    });
  }
  return (texts ?? []).map((text, i) => reader.text(`${name}[${i}]`, text));
}
