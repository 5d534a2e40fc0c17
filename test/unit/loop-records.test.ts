// Input records of the loop: what is taken, and errors that name file, line and field.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { eftOf, iftOf, labelledPairsOf, readEft, readIft, readJudgePairs } from '../../src/loop/example-records.js';
import { problemsOf, readProblems } from '../../src/loop/records.js';

const VERDICTS = { a: '[[A]]', b: '[[B]]' };

const root = mkdtempSync(join(tmpdir(), 'stepward-records-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

let files = 0;
function file(...lines: (object | string)[]): string {
  const path = join(root, `${++files}.jsonl`);
  writeFileSync(path, lines.map((line) => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join(''));
  return path;
}

describe('records', () => {
  it('take problems with answers apart', async () => {
    const path = file({ problem: 'one', answer: 1 }, { id: 7, question: 'two', extra: true });
    const { problems, answers } = await readProblems(path);
    expect(problems).toEqual([
      { place: `${path}:1`, record: { id: 1, problem: 'one' } },
      { place: `${path}:2`, record: { id: 7, problem: 'two' } },
    ]);
    expect([...answers]).toEqual([['1', '1']]);
  });

  it('keep the type of their ids', async () => {
    const pair = { problem: 'p', a: 'x', b: 'y', critique: 'c', label: 'a' };
    const path = file({ ...pair, id: 7 }, { ...pair, id: '8' }, pair);
    const ids = (placed: { record: { id?: string | number } }[]) => placed.map(({ record }) => record.id);
    expect(ids(await readJudgePairs(path))).toEqual([7, '8', 3]);
    expect(ids(await readEft(path, VERDICTS))).toEqual([7, '8', 3]);
    expect(ids(await labelledPairsOf({ file: path }))).toEqual([7, '8', 3]);
    expect(ids((await readProblems(path)).problems)).toEqual([7, '8', 3]);
  });

  it('cut written solutions into steps', async () => {
    const path = file({ problem: 'p', solution: 'a\n\n b \nc' }, { problem: 'p', steps: ['x'] });
    expect((await readIft(path, '\n')).map(({ record }) => record.steps)).toEqual([['a', 'b', 'c'], ['x']]);
  });

  it.each([
    [
      () => readProblems(file({ problem: 'a' }, { answer: 3 })),
      /:2: expected the key problem or question, found answer/,
    ],
    [() => readProblems(file({ problem: 3 })), /:1: problem: expected a text, got 3/],
    [() => readProblems(file({ problem: ' ' })), /:1: problem: expected a text that is not blank/],
    [() => readProblems(file({ problem: 'a' }), true), /:1: answer: expected a text or number, which is missing/],
    [
      () => readProblems(file({ id: 'x', problem: 'a' }, { id: 'x', problem: 'b' })),
      /:2: id: expected each id once, got "x", and line 1 has "x"/,
    ],
    [
      () => readProblems(file({ id: 3, problem: 'a' }, { id: '3', problem: 'b' })),
      /:2: id: expected each id once, got "3", and line 1 has 3/,
    ],
    [
      () => readProblems(file({ id: '2', problem: 'a' }, { problem: 'b' })),
      /:2: id: expected each id once, got 2, and line 1 has "2"/,
    ],
    [() => readProblems(file('[1]')), /:1: expected a JSON object, got "\[1\]"/],
    [
      () => readEft(file({ problem: 'a', a: 'x', b: 'y', critique: 'so [[B]]', label: 'a' }), VERDICTS),
      /:1: critique: expected no \[\[B\]\] where the label is a, found one/,
    ],
    [() => readProblems(file({ problem: 'a' }, '{"problem": ')), /:2: expected one JSON value/],
    [() => readIft(file({ problem: 'a' }), '\n'), /:1: expected the key steps or solution/],
    [
      () => readEft(file({ problem: 'a', a: 'x', b: 'y', critique: 'c', label: 'c' }), VERDICTS),
      /:1: label: expected "a" or "b", got "c"/,
    ],
    [
      () => readJudgePairs(file({ problem: 'a', steps: [3], a: 'x', b: 'y' })),
      /:1: steps\[0\]: expected a text, got 3/,
    ],
    [() => readJudgePairs(file({ problem: 'a', a: 'x' })), /:1: b: expected a text, which is missing/],
    [() => readProblems(file()), /: expected at least one record, got none/],
    [() => readProblems(join(root, 'none.jsonl')), /none\.jsonl: no such file/],
  ])('name the place of what is wrong (%#)', async (read, message) => {
    const error = await read().then(
      () => undefined,
      (thrown: unknown) => thrown as { message: string; exitCode: number },
    );
    expect(error?.message).toMatch(message);
    expect(error?.exitCode).toBe(2);
  });

  it('come from the generator with answers apart and critiques where they belong', async () => {
    const arithmetic = { split: 'held-out' as const, count: 5, seed: 0 };
    const { problems, answers } = await problemsOf({ arithmetic });
    expect(problems.map(({ record }) => Object.keys(record))).toEqual(problems.map(() => ['id', 'problem']));
    expect(answers.size).toBe(5);
    expect((await iftOf({ arithmetic }, '\n')).length).toBe(5);
    expect((await eftOf({ arithmetic }, VERDICTS)).every(({ record }) => record.critique.length > 0)).toBe(true);
    expect((await labelledPairsOf({ arithmetic })).every(({ record }) => !('critique' in record))).toBe(true);
    expect(problems[0]?.place).toBe('arithmetic held-out-0-0');
  });
});
