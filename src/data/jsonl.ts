// JSON lines in and out. Reading names FILE:LINE in every error and holds one chunk at a time; what a line means is
// for records.ts to say.

import { closeSync, createReadStream, mkdirSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { StepwardError } from '../errors.js';

export interface JsonLine {
  /** 1 for the first. */
  line: number;
  value: unknown;
}

/**
 * The values of a JSON lines file; blank lines are skipped. Throws FILE_NOT_FOUND, IO_ERROR, or INVALID_DATA with
 * "FILE:LINE: ..." where a line is not JSON or not UTF-8.
 */
export async function* readJsonl(path: string): AsyncGenerator<JsonLine> {
  let line = 0;
  for await (const text of readLines(path)) {
    line++;
    if (text.trim() === '') continue;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      const reason = (error as Error).message;
      throw new StepwardError(
        'INVALID_DATA',
        `${path}:${line}: expected one JSON value on the line, got ${clip(text)} (${reason})`,
      );
    }
    yield { line, value };
  }
}

// Not node:readline: it also breaks lines at U+2028 and U+2029, which JSON allows inside strings.
async function* readLines(path: string): AsyncGenerator<string> {
  let rest: Buffer = Buffer.alloc(0);
  let line = 0;
  const decoder = new TextDecoder('utf-8', { fatal: true });
  const decode = (bytes: Buffer): string => {
    line++;
    try {
      return decoder.decode(bytes);
    } catch {
      throw new StepwardError('INVALID_DATA', `${path}:${line}: expected UTF-8 text, got other bytes`);
    }
  };
  try {
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      let start = 0;
      for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10, start)) {
        yield decode(rest.subarray(start, end));
        start = end + 1;
      }
      rest = rest.subarray(start);
    }
  } catch (error) {
    throw fileError(path, error);
  }
  if (rest.length > 0) yield decode(rest);
}

/** Names the file in what node:fs threw. */
export function fileError(path: string, error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (error instanceof StepwardError || code === undefined) return error;
  if (code === 'ENOENT')
    return new StepwardError('FILE_NOT_FOUND', `${path}: no such file or folder`, { cause: error });
  if (code === 'EISDIR')
    return new StepwardError('INVALID_ARGUMENT', `${path}: expected a file, got a folder`, { cause: error });
  return new StepwardError('IO_ERROR', `${path}: ${(error as Error).message}`, { cause: error });
}

/** Writes JSON lines, each line at once, keys in the order the object has them. Typed arrays become arrays. */
export class JsonlWriter {
  #descriptor: number | undefined;

  /** Makes the folders above `path`. Starts an empty file unless `append`. */
  constructor(
    readonly path: string,
    options: { append?: boolean } = {},
  ) {
    try {
      mkdirSync(dirname(path), { recursive: true });
      this.#descriptor = openSync(path, options.append ? 'a' : 'w');
    } catch (error) {
      throw fileError(path, error);
    }
  }

  write(value: object): void {
    if (this.#descriptor === undefined) throw new StepwardError('INTERNAL', `${this.path}: written to after close`);
    const bytes = Buffer.from(`${toJson(value)}\n`);
    try {
      for (let done = 0; done < bytes.length; ) done += writeSync(this.#descriptor, bytes, done);
    } catch (error) {
      throw fileError(this.path, error);
    }
  }

  close(): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }
}

/** JSON of one line, typed arrays as arrays. Numbers that JSON cannot hold (NaN, infinities) become null. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, (_key, item) => {
    if (item instanceof Float32Array) return Array.from(item, float32);
    if (ArrayBuffer.isView(item)) return Array.from(item as unknown as ArrayLike<number>);
    return item;
  });
}

/** A 32-bit float in the 9 digits that hold it exactly, instead of the 17 of its 64-bit twin. */
export function float32(value: number): number {
  return Number(value.toPrecision(9));
}

/** Text for an error message, cut to a readable length. */
export function clip(text: string, length = 60): string {
  const flat = text.replace(/\s+/g, ' ').trim();
  return JSON.stringify(flat.length > length ? `${flat.slice(0, length)}...` : flat);
}
