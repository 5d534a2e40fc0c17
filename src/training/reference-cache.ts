// Reference log-probs on disk, kept from one training to the next: [C] float64 for each tree, or micro-batch, that was
// computed, under a key of all that decides their bits. A file only grows, a record at a time and each by one write, so
// trainings may run side by side, and a record that was cut off or damaged is skipped.

import { createHash } from 'node:crypto';
import { appendFileSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileError } from '../data/jsonl.js';
import type { Completions } from '../native/types.js';
import type { ReferenceCacheOptions } from './types.js';

// A record: mark, key, count as u32, digest of key and values, values as little-endian float64.
const MARK = Buffer.from('SWREF1\r\n', 'latin1');
const KEY_BYTES = 16;
const DIGEST_BYTES = 8;
const HEAD_BYTES = MARK.length + KEY_BYTES + 4 + DIGEST_BYTES;

export class ReferenceCache {
  readonly #path: string;
  readonly #known = new Map<string, Float64Array>();

  private constructor(path: string) {
    this.#path = path;
  }

  /** The file of one model on one machine. Throws IO_ERROR where the folder cannot be made or read. */
  static open({ directory, machine }: ReferenceCacheOptions, weightsHash: string): ReferenceCache {
    const space = createHash('sha256')
      .update(JSON.stringify([weightsHash, machine]))
      .digest('hex')
      .slice(0, 32);
    const cache = new ReferenceCache(join(directory, `${space}.ref`));
    try {
      mkdirSync(directory, { recursive: true });
      cache.#read();
    } catch (error) {
      throw fileError(directory, error);
    }
    return cache;
  }

  /** Undefined where they are not there. Never fewer or more than `count`. */
  get(key: string, count: number): Float64Array | undefined {
    const values = this.#known.get(key);
    return values?.length === count ? values : undefined;
  }

  put(key: string, logprobs: ArrayLike<number>): void {
    const values = Float64Array.from(logprobs);
    const head = Buffer.alloc(HEAD_BYTES);
    const keyBytes = Buffer.from(key, 'hex');
    const body = Buffer.alloc(8 * values.length);
    for (const [i, value] of values.entries()) body.writeDoubleLE(value, 8 * i);
    MARK.copy(head);
    keyBytes.copy(head, MARK.length);
    head.writeUInt32LE(values.length, MARK.length + KEY_BYTES);
    digestOf(keyBytes, body).copy(head, MARK.length + KEY_BYTES + 4);
    try {
      appendFileSync(this.#path, Buffer.concat([head, body]));
    } catch (error) {
      throw fileError(this.#path, error);
    }
    this.#known.set(key, values);
  }

  #read(): void {
    let bytes: Buffer;
    try {
      bytes = readFileSync(this.#path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      throw error;
    }
    for (let at = bytes.indexOf(MARK); at >= 0; ) {
      const end = this.#readRecord(bytes, at);
      at = bytes.indexOf(MARK, end ?? at + 1);
    }
  }

  /** Where the record at `at` ends; undefined where it is not whole. */
  #readRecord(bytes: Buffer, at: number): number | undefined {
    if (at + HEAD_BYTES > bytes.length) return undefined;
    const keyBytes = bytes.subarray(at + MARK.length, at + MARK.length + KEY_BYTES);
    const count = bytes.readUInt32LE(at + MARK.length + KEY_BYTES);
    const start = at + HEAD_BYTES;
    const end = start + 8 * count;
    if (end > bytes.length) return undefined;
    const body = bytes.subarray(start, end);
    if (!digestOf(keyBytes, body).equals(bytes.subarray(start - DIGEST_BYTES, start))) return undefined;
    this.#known.set(
      keyBytes.toString('hex'),
      Float64Array.from({ length: count }, (_, i) => body.readDoubleLE(8 * i)),
    );
    return end;
  }
}

function digestOf(key: Buffer, values: Buffer): Buffer {
  return createHash('sha256').update(key).update(values).digest().subarray(0, DIGEST_BYTES);
}

/** Key of a micro-batch, or of a part of one: its whole forest and its completions. */
export function forestKey({ forest, completionOffsets, completionSegments }: Completions): string {
  const hash = createHash('sha256');
  for (const part of [forest.tokens, forest.offsets, forest.parents, completionOffsets, completionSegments]) {
    hash.update(`${part.length};`).update(Buffer.from(part.buffer, part.byteOffset, part.byteLength));
  }
  return hash.digest('hex').slice(0, 2 * KEY_BYTES);
}
