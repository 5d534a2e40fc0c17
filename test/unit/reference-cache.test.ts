import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { trainPreference } from '../../src/training/preference.js';
import { forestKey, ReferenceCache } from '../../src/training/reference-cache.js';
import type { PreferenceTree, StepMetrics, TrainingHooks } from '../../src/training/types.js';
import { fakeTrainerEngine } from '../helpers/fake-trainer.js';
import { withoutTimes } from '../helpers/without-times.js';

const root = mkdtempSync(join(tmpdir(), 'stepward-cache-'));
afterAll(() => rmSync(root, { recursive: true }));
let folders = 0;
const folder = (): string => join(root, `cache-${folders++}`);
const [one, two] = ['0123456789abcdef0123456789abcdef', 'fedcba98765432100123456789abcdef'];

describe('ReferenceCache', () => {
  it('gives back the exact doubles to who opens it later, for the same weights and machine alone', () => {
    const directory = folder();
    const values = [-Math.PI, Number.MIN_VALUE, -660.0000000001];
    ReferenceCache.open({ directory, machine: 'a' }, 'hash').put(one, values);
    const again = ReferenceCache.open({ directory, machine: 'a' }, 'hash');
    expect([...(again.get(one, 3) ?? [])]).toEqual(values);
    expect(again.get(one, 2)).toBeUndefined();
    expect(again.get(two, 3)).toBeUndefined();
    expect(ReferenceCache.open({ directory, machine: 'b' }, 'hash').get(one, 3)).toBeUndefined();
    expect(ReferenceCache.open({ directory, machine: 'a' }, 'other').get(one, 3)).toBeUndefined();
  });

  it('leaves a record out that was cut off or damaged, and finds those after it', () => {
    const directory = folder();
    const cache = ReferenceCache.open({ directory, machine: '' }, 'hash');
    cache.put(one, [1, 2, 3]);
    const file = join(directory, readdirSync(directory)[0] as string);
    const whole = statSync(file).size;
    cache.put(two, [4]);
    const bytes = readFileSync(file);
    // The first record loses its last 5 bytes, as if the machine had gone down; the second was written after that.
    writeFileSync(file, bytes.subarray(0, whole - 5));
    appendFileSync(file, bytes.subarray(whole));
    const torn = ReferenceCache.open({ directory, machine: '' }, 'hash');
    expect(torn.get(one, 3)).toBeUndefined();
    expect([...(torn.get(two, 1) ?? [])]).toEqual([4]);
    // A flipped bit in a value.
    bytes[whole - 3] = (bytes[whole - 3] as number) ^ 1;
    writeFileSync(file, bytes);
    const damaged = ReferenceCache.open({ directory, machine: '' }, 'hash');
    expect(damaged.get(one, 3)).toBeUndefined();
    expect(damaged.get(two, 1)).toBeDefined();
  });

  it('takes what several processes write in turn', () => {
    const directory = folder();
    const [a, b] = [0, 1].map(() => ReferenceCache.open({ directory, machine: '' }, 'hash')) as [
      ReferenceCache,
      ReferenceCache,
    ];
    a.put(one, [1]);
    b.put(two, [2]);
    const both = ReferenceCache.open({ directory, machine: '' }, 'hash');
    expect([both.get(one, 1)?.[0], both.get(two, 1)?.[0]]).toEqual([1, 2]);
  });

  it('names the folder that cannot be made', () => {
    const file = join(root, 'file');
    writeFileSync(file, '');
    expect(() => ReferenceCache.open({ directory: file, machine: '' }, 'hash')).toThrow(`${file}: `);
  });
});

it('the key of a micro-batch is that of its forest and its completions', () => {
  const packed = (ids: number[], segments: number[]) => ({
    forest: { tokens: Int32Array.from(ids), offsets: Int32Array.of(0, 1, ids.length), parents: Int32Array.of(-1, 0) },
    completionOffsets: Int32Array.of(0, segments.length),
    completionSegments: Int32Array.from(segments),
  });
  const key = forestKey(packed([1, 2, 3], [1]));
  expect(key).toMatch(/^[0-9a-f]{32}$/);
  expect(forestKey(packed([1, 2, 3], [1]))).toBe(key);
  expect(forestKey(packed([1, 2, 4], [1]))).not.toBe(key);
  expect(forestKey(packed([1, 2, 3], [0]))).not.toBe(key);
});

describe('a training', () => {
  const trees: PreferenceTree[] = Array.from({ length: 6 }, (_, i) => ({
    promptIds: [i, 1, 2, 3, 4, 5, 6, 7],
    steps: [{ chosenIds: [3, 4], rejected: [{ ids: [15, 23, i] }] }],
  }));

  async function train(
    directory: string | undefined,
    own: Partial<TrainingHooks> = {},
    { batchSize = 2, device = 'cpu', data = trees } = {},
  ) {
    const { engine, trainer } = fakeTrainerEngine(0.5);
    engine.info.device = device;
    const steps: StepMetrics[] = [];
    const summary = await trainPreference(
      engine,
      data,
      { batchSize, epochs: 2 },
      {
        ...(directory !== undefined && { referenceCache: { directory, machine: 'here' } }),
        onStep: (metrics) => steps.push(withoutTimes(metrics)),
        ...own,
      },
    );
    return { trainer, steps, summary };
  }

  it('finds what an earlier one computed and gives the same metrics', async () => {
    const directory = folder();
    const none = await train(undefined);
    const cold = await train(directory);
    const warm = await train(directory);
    expect(cold.steps).toEqual(none.steps);
    expect(warm.steps).toEqual(none.steps);
    expect(cold.summary).toMatchObject({ cachedReferenceTokens: 0, referenceTokens: none.summary.referenceTokens });
    expect(warm.summary).toMatchObject({ cachedReferenceTokens: none.summary.referenceTokens, referenceTokens: 0 });
    // Of the three passes the packing's check of itself is left: packed and alone.
    const references = (calls: string[]): number => calls.filter((call) => call === 'reference').length;
    expect([cold, warm].map(({ trainer }) => references(trainer.calls))).toEqual([4, 2]);
  });

  it('finds trees in other micro-batches, and computes those that are new', async () => {
    const directory = folder();
    const cold = await train(directory);
    const regrouped = await train(directory, {}, { batchSize: 3 });
    expect(regrouped.summary).toMatchObject({
      referenceTokens: 0,
      cachedReferenceTokens: cold.summary.referenceTokens,
    });
    expect(regrouped.steps).toEqual((await train(undefined, {}, { batchSize: 3 })).steps);

    const data = [...trees, { promptIds: [9, 9, 9, 9, 9, 9, 9], steps: trees[0]?.steps ?? [] }];
    const grown = await train(directory, {}, { batchSize: 7, data });
    expect(grown.summary).toMatchObject({
      referenceTokens: 12,
      cachedReferenceTokens: cold.summary.referenceTokens,
    });
    expect(grown.steps).toEqual((await train(undefined, {}, { batchSize: 7, data })).steps);
  });

  it('keeps whole micro-batches where the last bits of a tree depend on what is beside it', async () => {
    const directory = folder();
    await train(directory, {}, { device: 'cuda:0' });
    expect((await train(directory, {}, { device: 'cuda:0' })).summary.referenceTokens).toBe(0);
    expect((await train(directory, {}, { device: 'cuda:0', batchSize: 3 })).summary.cachedReferenceTokens).toBe(0);
  });

  it('does not take another model’s', async () => {
    const directory = folder();
    await train(directory);
    const { engine } = fakeTrainerEngine(0.5, 3);
    const other = await train(directory, { reference: engine });
    expect(other.summary.cachedReferenceTokens).toBe(0);
    expect(other.steps).toEqual((await train(undefined, { reference: engine })).steps);
    const again = await train(directory, { reference: fakeTrainerEngine(0.5, 3).engine });
    expect(again.summary.referenceTokens).toBe(0);
    expect(again.steps).toEqual(other.steps);
  });
});
