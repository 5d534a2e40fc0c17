import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { JsonlWriter, readJsonl } from '../../src/data/jsonl.js';

const folder = mkdtempSync(join(tmpdir(), 'stepward-jsonl-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function read(content: string | Buffer): Promise<{ line: number; value: unknown }[]> {
  const path = join(folder, 'in.jsonl');
  writeFileSync(path, content);
  const lines = [];
  for await (const line of readJsonl(path)) lines.push(line);
  return lines;
}

describe('readJsonl', () => {
  it('numbers lines as an editor does: blank lines count, CRLF and a missing last newline are fine', async () => {
    expect(await read('{"a":1}\r\n\n  \n[2]')).toEqual([
      { line: 1, value: { a: 1 } },
      { line: 4, value: [2] },
    ]);
  });

  it('keeps U+2028 inside a text, which breaks lines in node:readline', async () => {
    expect(await read('"a\u2028b"\n"c"\n')).toEqual([
      { line: 1, value: 'a\u2028b' },
      { line: 2, value: 'c' },
    ]);
  });

  it('joins lines that are cut between chunks', async () => {
    const long = 'é'.repeat(200_000);
    expect(await read(`${JSON.stringify(long)}\n${JSON.stringify(long)}\n`)).toEqual([
      { line: 1, value: long },
      { line: 2, value: long },
    ]);
  });

  it('names file and line of broken JSON', async () => {
    await expect(read('{}\n{"prompt": "a"\n')).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringMatching(/in\.jsonl:2: expected one JSON value on the line, got "\{\\"prompt\\": \\"a\\""/),
    });
  });

  it('names file and line of bytes that are not UTF-8', async () => {
    await expect(read(Buffer.from([0x7b, 0x7d, 0x0a, 0x22, 0xff, 0x22]))).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringContaining('in.jsonl:2: expected UTF-8'),
    });
  });

  it('says that a file is not there', async () => {
    await expect(readJsonl(join(folder, 'none.jsonl')).next()).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(readJsonl(folder).next()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describe('JsonlWriter', () => {
  it('writes typed arrays as lists, 32-bit floats in the digits they have', () => {
    const path = join(folder, 'deep', 'out.jsonl');
    const writer = new JsonlWriter(path);
    writer.write({ z: Int32Array.of(1, 2), a: Float32Array.of(0.1, -1.5), n: Number.NaN });
    writer.close();
    expect(readFileSync(path, 'utf8')).toBe('{"z":[1,2],"a":[0.100000001,-1.5],"n":null}\n');
    expect(Math.fround(0.100000001)).toBe(Math.fround(0.1));
  });

  it('starts anew, or goes on with append', () => {
    const path = join(folder, 'twice.jsonl');
    for (const append of [false, true, false]) {
      const writer = new JsonlWriter(path, { append });
      writer.write({ append });
      writer.close();
      if (append) expect(readFileSync(path, 'utf8')).toBe('{"append":false}\n{"append":true}\n');
    }
    expect(readFileSync(path, 'utf8')).toBe('{"append":false}\n');
  });
});
