// Which format a model is used with: --format FILE or the recipe's, else the model folder's stepward.json, else the
// built-in one. Also writes stepward.json beside a saved model.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import type { z } from 'zod';
import { describeIssues } from '../config/issues.js';
import { StepwardError } from '../errors.js';
import { DEFAULT_FORMAT, formatSchema, modelFileSchema, type PromptFormat } from './format.js';

const MODEL_FILE = 'stepward.json';

/** The model folder's own format, or the built-in one. */
export function modelFormat(directory: string): PromptFormat {
  const file = join(directory, MODEL_FILE);
  return existsSync(file) ? readWith(modelFileSchema, file).format : DEFAULT_FORMAT;
}

/** A format file, JSON or YAML: a format by itself, or under the key `format` as in stepward.json. */
export function readFormat(file: string): PromptFormat {
  const value = readValue(file);
  const nested = typeof value === 'object' && value !== null && 'format' in value;
  return nested ? check(modelFileSchema, value, file).format : check(formatSchema, value, file);
}

export function writeModelFormat(directory: string, format: PromptFormat): void {
  writeFileSync(join(directory, MODEL_FILE), `${JSON.stringify({ format }, null, 2)}\n`);
}

function readWith<T>(schema: z.ZodType<T>, file: string): T {
  return check(schema, readValue(file), file);
}

function readValue(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new StepwardError('FILE_NOT_FOUND', `${file}: no such format file`, { cause: error });
  }
  try {
    return parse(text);
  } catch (error) {
    throw new StepwardError('INVALID_CONFIG', `${file}: expected JSON or YAML (${(error as Error).message})`);
  }
}

function check<T>(schema: z.ZodType<T>, value: unknown, file: string): T {
  const result = schema.safeParse(value);
  if (!result.success)
    throw new StepwardError(
      'INVALID_CONFIG',
      describeIssues(result.error, schema, value, () => file),
    );
  return result.data;
}
