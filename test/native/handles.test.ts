// Tagged handles of the raw addon: wrong kinds, disposed ones, forgotten ones, and arguments of the wrong form.

import { setImmediate as tick } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { beforeAll, describe, expect, it } from 'vitest';
import type { NativeGenerateRequest, NativeHandle, NativeTrainerOptions } from '../../src/native/contract.js';
import { loadAddon } from '../../src/native/load.js';
import { expectNoLiveHandles } from '../helpers/live-handles.js';
import { smallForest, tinyModels } from '../helpers/tiny-model.js';

expectNoLiveHandles();
const tinyModel = tinyModels();
const addon = loadAddon();
const adamw: NativeTrainerOptions = {
  optimizer: 'adamw',
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0,
  maxGradNorm: 0,
};
const sft = () => ({ forest: smallForest(), segmentWeight: Float32Array.of(0, 1, 1), tokenNorm: 4 });
const all = Uint8Array.of(1, 1, 1);

let directory: string;
beforeAll(() => {
  directory = tinyModel();
});

const modelOptions = () =>
  ({
    directory,
    device: 'cpu',
    dtype: 'float32',
    initSeed: 1n,
    kvBudgetBytes: 1e9,
    sharePrefixes: true,
    bf16Panels: false,
  }) as const;

async function withHandles<T>(use: (token: NativeHandle, engine: NativeHandle) => Promise<T>): Promise<T> {
  const token = addon.createCancelToken();
  const engine = await addon.loadModel(modelOptions(), token);
  try {
    return await use(token, engine);
  } finally {
    await addon.dispose(engine);
    await addon.dispose(token);
  }
}

const invalid = (message: string) => expect.objectContaining({ code: 'HANDLE_INVALID', message });

describe('handles', () => {
  it('are counted from creation to disposal', async () => {
    expect(addon.debugLiveHandles()).toBe(0);
    await withHandles(async (_token, engine) => {
      expect(addon.debugLiveHandles()).toBe(2);
      const trainer = await addon.createTrainer(engine, adamw);
      expect(addon.debugLiveHandles()).toBe(3);
      await addon.dispose(trainer);
      expect(addon.debugLiveHandles()).toBe(2);
    });
    expect(addon.debugLiveHandles()).toBe(0);
  });

  it('of another kind are refused, by name', async () => {
    await withHandles(async (token, engine) => {
      const trainer = await addon.createTrainer(engine, adamw);
      const score = (e: unknown, t: unknown) => addon.score(e as NativeHandle, smallForest(), all, t as NativeHandle);
      await expect(score(trainer, token)).rejects.toEqual(
        invalid('engine: expected a handle of kind engine, got trainer'),
      );
      await expect(score(engine, engine)).rejects.toEqual(
        invalid('cancel: expected a handle of kind cancel token, got engine'),
      );
      await expect(addon.zeroGrad(engine)).rejects.toEqual(
        invalid('trainer: expected a handle of kind trainer, got engine'),
      );
      expect(() => addon.cancel(engine)).toThrow(invalid('token: expected a handle of kind cancel token, got engine'));
      expect(() => addon.modelInfo(token)).toThrow(
        invalid('engine: expected a handle of kind engine, got cancel token'),
      );
      await addon.dispose(trainer);
    });
  });

  it.each([undefined, null, 7, 'engine', {}, [], () => {}, new Int32Array(2)])('are not %o', async (value) => {
    const message = 'engine: expected a handle of kind engine, got another value';
    await expect(addon.weightsHash(value as unknown as NativeHandle)).rejects.toEqual(invalid(message));
    await expect(addon.dispose(value as unknown as NativeHandle)).rejects.toEqual(
      invalid('handle: expected a handle of this addon, got another value'),
    );
  });

  it('are refused after disposal, and may be disposed twice', async () => {
    const kept = await withHandles(async (token, engine) => {
      const trainer = await addon.createTrainer(engine, adamw);
      await addon.dispose(trainer);
      await addon.dispose(trainer);
      await expect(addon.zeroGrad(trainer)).rejects.toEqual(invalid('trainer: the trainer was disposed'));
      return { token, engine };
    });
    await addon.dispose(kept.engine);
    await addon.dispose(kept.token);
    expect(() => addon.modelInfo(kept.engine)).toThrow(invalid('engine: the engine was disposed'));
    expect(() => addon.cancel(kept.token)).toThrow(invalid('token: the cancel token was disposed'));
  });

  it('that are forgotten are released when they are collected', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    await (async () => {
      const token = addon.createCancelToken();
      const engine = await addon.loadModel(modelOptions(), token);
      await addon.createTrainer(engine, adamw);
      expect(addon.debugLiveHandles()).toBe(3);
    })();
    for (let i = 0; i < 100 && addon.debugLiveHandles() > 0; i++) {
      collect();
      await tick();
    }
    expect(addon.debugLiveHandles()).toBe(0);
  });
});

describe('an engine and its trainer', () => {
  it('the model lives on until the trainer is disposed too', async () => {
    await withHandles(async (token, engine) => {
      const trainer = await addon.createTrainer(engine, adamw);
      await addon.dispose(engine);
      await expect(addon.weightsHash(engine)).rejects.toEqual(invalid('engine: the engine was disposed'));
      expect((await addon.accumulateSft(trainer, sft(), token)).scoredTokens).toBe(4);
      await addon.dispose(trainer);
    });
  });

  it('a second live trainer is refused; after the first is disposed it is not', async () => {
    await withHandles(async (_token, engine) => {
      const first = await addon.createTrainer(engine, adamw);
      const refused = { code: 'INVALID_ARGUMENT', message: expect.stringContaining('has a trainer already') };
      await expect(addon.createTrainer(engine, adamw)).rejects.toMatchObject(refused);
      await addon.dispose(first);
      await addon.dispose(await addon.createTrainer(engine, adamw));
    });
  });

  it('jobs queued before disposal still run', async () => {
    await withHandles(async (token, engine) => {
      const trainer = await addon.createTrainer(engine, adamw);
      const work = addon.accumulateSft(trainer, sft(), token);
      const score = addon.score(engine, smallForest(), all, token);
      await Promise.all([addon.dispose(trainer), addon.dispose(engine)]);
      expect((await work).scoredTokens).toBe(4);
      expect((await score).logprobs).toHaveLength(6);
    });
  });
});

describe('arguments', () => {
  const request = (changes: Record<string, unknown>): NativeGenerateRequest => ({
    forest: smallForest(),
    nodes: Int32Array.of(1, 2),
    samples: 1,
    seed: 0n,
    treeKeys: BigUint64Array.of(0n, 1n),
    steps: Int32Array.of(0, 0),
    firstCandidate: 0,
    temperature: 1,
    topP: 1,
    topK: 0,
    minP: 0,
    minNewTokens: 0,
    maxNewTokens: 2,
    eosIds: Int32Array.of(1),
    stop: [],
    ...changes,
  });

  it.each([
    [{ seed: 1 }, 'request.seed: expected a bigint from 0 to 2^64 - 1, got 1'],
    [{ seed: -1n }, 'request.seed: expected a bigint from 0 to 2^64 - 1, got a bigint'],
    [{ nodes: [1, 2] }, 'request.nodes: expected an Int32Array, got an Array'],
    [{ nodes: Uint8Array.of(1, 2) }, 'request.nodes: expected an Int32Array, got another typed array'],
    [{ steps: Int32Array.of(0) }, 'request.steps: expected 2 elements (one per node), got 1'],
    [{ forest: undefined }, 'request.forest: expected an object, got nothing'],
    [{ forest: { ...smallForest(), tokens: undefined } }, 'request.forest.tokens: expected an Int32Array, got nothing'],
    [
      { forest: { ...smallForest(), offsets: Int32Array.of(0, 6) } },
      'request.forest.offsets: expected 4 elements (one more than parents), got 2',
    ],
    [{ samples: 1.5 }, 'request.samples: expected an integer from 1 to 2147483647, got 1.5'],
    [{ topK: 2 ** 31 }, 'request.topK: expected an integer from 0 to 2147483647, got 2.14748e+09'],
    [{ minP: 1.5 }, 'minP: expected a number from 0 (off) to 1, got 1.5'],
    [{ temperature: Number.NaN }, 'request.temperature: expected a finite number, got nan'],
    [{ stop: ['a', 7] }, 'request.stop[1]: expected a string, got 7'],
    [{ stop: 'a' }, "request.stop: expected an Array of strings, got 'a'"],
  ])('%o of generate are refused, naming the field', async (changes, message) => {
    await withHandles(async (token, engine) => {
      const generated = addon.generate(engine, request(changes), token);
      await expect(generated).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', message });
    });
  });

  it('offsets that fall or leave the bytes are refused', async () => {
    await withHandles(async (_token, engine) => {
      const offsets = Int32Array.from({ length: 65 }, (_, i) => (i === 3 ? 9 : 2));
      offsets[0] = 0;
      await expect(addon.setTokenBytes(engine, new Uint8Array(4), offsets)).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: 'offsets[3]: expected 2 to 4, got 9',
      });
    });
  });

  it('completion offsets that fall are refused', async () => {
    await withHandles(async (token, engine) => {
      const trainer = await addon.createTrainer(engine, adamw);
      const batch = {
        forest: smallForest(),
        completionOffsets: Int32Array.of(0, 100, 2),
        completionSegments: Int32Array.of(1, 2),
        chosen: Int32Array.of(0),
        rejected: Int32Array.of(1),
        weight: Float32Array.of(1),
        reference: new Float64Array(2),
        loss: 'sigmoid',
        beta: 0.1,
        labelSmoothing: 0,
        gamma: 0,
        sftWeight: 0,
        pairNorm: 1,
        tokenNorm: 2,
      } as const;
      await expect(addon.accumulatePreference(trainer, batch, token)).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: 'batch.completionOffsets[2]: expected at least the entry before it, got 2',
      });
      await addon.dispose(trainer);
    });
  });

  it.each([0, 1.5, 1025, '2'])('setThreads refuses %o', (threads) => {
    expect(() => addon.setThreads(threads as number)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('from 1 to 1024') }),
    );
  });
});
