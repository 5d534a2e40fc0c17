// A training that a number which is not finite stops: what is left to look at, and to go on from.

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readPreferenceTrees } from '../../src/data/preference-records.js';
import type { RecordLimits } from '../../src/data/records.js';
import { readSftExamples } from '../../src/data/sft-records.js';
import { StepwardError } from '../../src/errors.js';
import type { EngineLike } from '../../src/native/types.js';
import { saveFailure } from '../../src/training/failure.js';
import { flattenTrees } from '../../src/training/pairs.js';
import { trainPreference } from '../../src/training/preference.js';
import { trainSft } from '../../src/training/sft.js';
import type {
  PreferenceOptions,
  PreferenceTree,
  SftExample,
  TrainingFailure,
  TrainingHooks,
} from '../../src/training/types.js';
import { readLines } from '../helpers/command.js';
import { fakeTrainerEngine } from '../helpers/fake-trainer.js';

const root = mkdtempSync(join(tmpdir(), 'stepward-failure-'));
afterAll(() => rmSync(root, { recursive: true }));
const limits: RecordLimits = { directory: 'model', codec: undefined, vocabSize: 100, maxPositions: 64 };

const trees: PreferenceTree[] = Array.from({ length: 4 }, (_, i) => ({
  id: `p${i}`,
  promptIds: [i, 1, 2],
  steps: [
    { chosenIds: [3, 4], rejected: [{ ids: [15, 23, 7], weight: 0.5 }] },
    { chosenIds: [5], rejected: [{ ids: [31, 6], mix: 0.25 }] },
  ],
}));

const examples: SftExample[] = [3, 4].map((i) => ({
  segments: [
    { ids: [i, 1], weight: 0 },
    { ids: [2, 3], weight: 0.5 },
    { ids: [4], weight: 0 },
    { ids: [i], weight: 1 },
  ],
}));

/** Trains until the micro-batch after `good` ones fails, and keeps what is handed out. */
async function fail(good: number, how: 'throw' | 'loss' | 'apply' = 'throw', options: PreferenceOptions = {}) {
  const { engine, trainer } = fakeTrainerEngine();
  const accumulate = trainer.accumulatePreference;
  trainer.accumulatePreference = async (batch) => {
    const result = await accumulate(batch);
    if (trainer.batches.length <= good || how === 'apply') return result;
    if (how === 'loss') return { ...result, loss: Number.NaN };
    throw new StepwardError('NUMERICAL', 'the preference loss is nan');
  };
  const apply = trainer.apply;
  trainer.apply = async (rate) => {
    if (how === 'apply' && trainer.batches.length > good)
      throw new StepwardError('NUMERICAL', 'the gradient norm is inf');
    return apply(rate);
  };
  const failures: TrainingFailure[] = [];
  const folder = join(root, `failed-${good}-${how}-${Object.keys(options).join()}`);
  const error = await trainPreference(
    engine,
    trees,
    { batchSize: 4, microBatchTokens: 12, shuffle: false, ...options },
    {
      async onFailure(failure) {
        failures.push(failure);
        await saveFailure(folder, failure, async (directory) => {
          mkdirSync(directory);
          writeFileSync(join(directory, 'model.safetensors'), `scale ${trainer.scale}`);
        });
        return 'kept';
      },
    },
  ).catch((thrown: unknown) => thrown);
  return { error, failures, folder, trainer };
}

describe('preference training', () => {
  it('hands out the micro-batch as records that can be read again, and the weights of the step before', async () => {
    const { error, folder, trainer } = await fail(3);
    expect(error).toMatchObject({
      code: 'NUMERICAL',
      message: 'step 2, micro-batch 2: the preference loss is nan; kept',
    });
    expect(readdirSync(folder).sort()).toEqual(['batch.jsonl', 'failure.json', 'model']);
    expect(readFileSync(join(folder, 'model/model.safetensors'), 'utf8')).toBe('scale 0.5');
    expect(trainer.rates).toHaveLength(1);
    const again = flattenTrees(await readPreferenceTrees(join(folder, 'batch.jsonl'), limits)).pairs;
    const [failed] = [trainer.batches.at(-1)];
    expect(again).toHaveLength(failed?.chosen.length as number);
    expect(again.map(({ tree, weight, mix }) => [tree.id, tree.firstStep, weight, mix])).toEqual([
      ['p3', 0, 0.5, undefined],
      ['p3', 1, 1, 0.25],
    ]);
    expect(again[1]).toMatchObject({ chosen: [5], rejected: [31, 6], tree: { promptIds: [3, 1, 2, 3, 4] } });
    const report = JSON.parse(readFileSync(join(folder, 'failure.json'), 'utf8')) as object;
    expect(report).toMatchObject({ step: 2, micro_batch: 2, error: 'the preference loss is nan' });
    expect((report as { records: object[] }).records[0]).toMatchObject({ pair: 6, reference_chosen: -1.375 });
  });

  it('sees a loss that is not finite in the micro-batch that has it', async () => {
    const { error, failures } = await fail(2, 'loss');
    expect(error).toMatchObject({ message: 'step 2, micro-batch 1: expected a finite loss, got NaN; kept' });
    expect(failures[0]?.records).toHaveLength(2);
  });

  it('hands out the whole step where its gradients are not finite', async () => {
    const { error, failures } = await fail(2, 'apply');
    expect(error).toMatchObject({ message: 'step 2: the gradient norm is inf; kept' });
    expect(failures[0]?.records).toHaveLength(4);
    expect(failures[0]?.microBatch).toBeUndefined();
  });

  it.each([{ lora: { rank: 2 } }, { adapter: 'made/before' }])(
    'saves the adapter, then merges it for the model: %j',
    async (options) => {
      const { folder, trainer } = await fail(1, 'throw', options);
      expect(trainer.calls.slice(-3)).toEqual([`saveAdapter ${join(folder, 'adapter')}`, 'mergeAdapter', 'dispose']);
    },
  );

  it.each([
    ['the model itself', {}],
    ['another model', { reference: true }],
  ])('a reference log-prob that is not finite is named, handed out and not kept on disk: %s', async (label, own) => {
    const [{ engine, trainer }, other] = [fakeTrainerEngine(), fakeTrainerEngine(0.5, 3)];
    const model = 'reference' in own ? other : { engine, trainer };
    const referenceLogprobs = model.trainer.referenceLogprobs;
    model.trainer.referenceLogprobs = async (batch) => {
      const values = await referenceLogprobs(batch);
      const { tokens, offsets, parents } = batch.forest;
      // The rejected first steps, in trees: the check of the packing computes them on chains.
      const inner = [...parents].filter((parent) => parent >= 0);
      if (new Set(inner).size === inner.length) return values;
      return values.map((value, c) => {
        const segment = batch.completionSegments[batch.completionOffsets[c]!]!;
        return tokens[offsets[segment]!] === 15 ? Number.NaN : value;
      });
    };
    const failures: TrainingFailure[] = [];
    const onFailure = async (failure: TrainingFailure): Promise<string> => `kept ${failures.push(failure)}`;
    const directory = join(root, `reference of ${label}`);
    await expect(
      trainPreference(
        engine,
        trees,
        { batchSize: 4, microBatchTokens: 12, shuffle: false },
        {
          onFailure,
          referenceCache: { directory, machine: 'here' },
          ...('reference' in own && { reference: other.engine }),
        },
      ),
    ).rejects.toMatchObject({
      code: 'NUMERICAL',
      message:
        'step 1, micro-batch 1: reference log-prob of rejected of pair 0 (step 0 of p0): expected a finite number, got NaN; kept 1',
    });
    expect(failures).toMatchObject([{ step: 1, microBatch: 1, records: [{ id: 'p0' }, { id: 'p0' }] }]);
    expect(readdirSync(directory)).toEqual([]);
    expect(trainer.calls).not.toContain('accumulate');
  });

  it('names the step of the first epoch that a reference log-prob is of', async () => {
    const { engine, trainer } = fakeTrainerEngine();
    const { referenceLogprobs } = trainer;
    trainer.referenceLogprobs = async (batch) => {
      const values = await referenceLogprobs(batch);
      return batch.forest.tokens[0] === 3 ? values.map(() => Number.NEGATIVE_INFINITY) : values;
    };
    await expect(
      trainPreference(engine, trees, { batchSize: 4, microBatchTokens: 12, shuffle: false }),
    ).rejects.toThrow(
      /^step 2, micro-batch 2: reference log-prob of chosen of pair 6 \(step 0 of p3\): expected a finite number, got -Infinity$/,
    );
  });

  it('says so where nothing can be saved', async () => {
    const { engine, trainer } = fakeTrainerEngine();
    trainer.accumulatePreference = async () => {
      throw new StepwardError('NUMERICAL', 'nan');
    };
    const onFailure = async (): Promise<string> => {
      throw new Error('disk full');
    };
    await expect(trainPreference(engine, trees, {}, { onFailure })).rejects.toThrow(
      'step 1, micro-batch 1: nan; nothing of it could be saved: disk full',
    );
  });

  it('asks for nothing after other errors', async () => {
    const { engine, trainer } = fakeTrainerEngine();
    trainer.accumulatePreference = async () => {
      throw new StepwardError('OUT_OF_MEMORY', 'no memory');
    };
    let asked = 0;
    const onFailure = async (): Promise<string> => `${asked++}`;
    await expect(trainPreference(engine, trees, {}, { onFailure })).rejects.toThrow(/^no memory$/);
    expect(asked).toBe(0);
  });
});

it.each([
  [
    'SFT',
    (engine: EngineLike, hooks: TrainingHooks) =>
      trainSft(engine, [examples[0]!, examples[0]!], { shuffle: false }, hooks),
  ],
  [
    'a loss without a reference',
    (engine: EngineLike, hooks: TrainingHooks) =>
      trainPreference(engine, trees, { loss: 'simpo', shuffle: false }, hooks),
  ],
])('a log-prob that is not finite is no fault of the packing: %s', async (_name, train) => {
  const { engine, trainer } = fakeTrainerEngine(0.5, Number.NaN);
  const failures: TrainingFailure[] = [];
  const onFailure = async (failure: TrainingFailure): Promise<string> => `kept ${failures.push(failure)}`;
  await expect(train(engine, { onFailure })).rejects.toThrow(
    /^step 1, micro-batch 1: log-prob of .* 0.*: expected a finite number, got NaN; kept 1$/,
  );
  expect(failures[0]?.records.length).toBeGreaterThan(0);
  expect(trainer.calls).not.toContain('accumulate');
});

it('SFT hands out examples that can be read again', async () => {
  const { engine, trainer } = fakeTrainerEngine();
  trainer.accumulateSft = async () => {
    throw new StepwardError('NUMERICAL', 'the SFT loss is nan');
  };
  const folder = join(root, 'sft');
  const onFailure = async (failure: TrainingFailure): Promise<string> => {
    await saveFailure(folder, failure, async () => undefined);
    return 'kept';
  };
  await expect(trainSft(engine, examples, { batchSize: 2, shuffle: false }, { onFailure })).rejects.toThrow('step 1');
  expect(await readSftExamples(join(folder, 'batch.jsonl'), limits)).toEqual(examples);
  expect(readLines(join(folder, 'batch.jsonl'))).toHaveLength(2);
});
