// The token tree through the addon: what its verbs give, what they refuse, and requests in flight that are aborted, outlived
// by new weights, or cut off by the end of their engine.

import { afterAll, describe, expect, it } from 'vitest';
import type { StepwardError } from '../../src/errors.js';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import { modelFolder } from '../helpers/goldens.js';

const directory = modelFolder('llama');
const SAMPLING = { samples: 4, seed: 3, temperature: 0.9, topP: 0.95, maxNewTokens: 6, eosIds: new Int32Array(0) };

async function withEngine<T>(use: (engine: Engine) => Promise<T>, options: { sharePrefixes?: boolean } = {}) {
  const engine = await Engine.load({ directory, device: 'cpu', dtype: 'float32', ...options });
  try {
    return await use(engine);
  } finally {
    await engine.dispose();
  }
}

const rowsOf = ({ tokens, offsets, finish }: { tokens: Int32Array; offsets: Int32Array; finish: Uint8Array }) =>
  Array.from(finish, (_, row) => Array.from(tokens.subarray(offsets[row], offsets[row + 1])));

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'resolved',
    (error: StepwardError) => error.code,
  );

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

describe('token tree', () => {
  it('forks, scores its candidates alike, commits, goes on, and ends with nothing held', async () => {
    await withEngine(async ({ tree }) => {
      const prompt = tree.open([1, 2, 3, 4]);
      const fork = await tree.fork([prompt], SAMPLING);
      const scores = await tree.score(prompt, rowsOf(fork));
      for (const [row, values] of scores.entries()) {
        const own = fork.logprobs.subarray(fork.offsets[row], fork.offsets[row + 1]);
        for (const [i, value] of values.entries()) expect(value).toBeCloseTo(own[i] as number, 5);
      }
      tree.commit(fork.firstNode + 2, fork);
      const label = Int32Array.of(7);
      const [below] = await tree.readout([tree.append(fork.firstNode + 2, [9])], label);
      const [whole] = await tree.readout([tree.open([1, 2, 3, 4, ...(rowsOf(fork)[2] as number[]), 9])], label);
      expect(below).toBeCloseTo(whole as number, 5);
      expect(await codeOf(tree.fork([fork.firstNode], SAMPLING))).toBe('HANDLE_INVALID');
      tree.release([prompt, fork.firstNode + 2]);
      expect((await tree.counters()).liveSegments).toBeGreaterThan(0);
    });
  });

  it('gives a candidate the same bits with many others, and with sharing off', async () => {
    const alone = await withEngine(({ tree }) => tree.fork([tree.open([5, 6, 7])], SAMPLING));
    const among = await withEngine(async ({ tree }) => {
      const nodes = [tree.open([5, 6, 7]), ...Array.from({ length: 40 }, (_, i) => tree.open([i % 50, 3, i % 7]))];
      return tree.fork(nodes, SAMPLING);
    });
    const unshared = await withEngine(({ tree }) => tree.fork([tree.open([5, 6, 7])], SAMPLING), {
      sharePrefixes: false,
    });
    for (const other of [among, unshared]) {
      expect(rowsOf(other).slice(0, 4)).toEqual(rowsOf(alone));
      expect(other.logprobs.subarray(0, alone.logprobs.length)).toEqual(alone.logprobs);
    }
  });

  it('fails what uses a node that could not be made, and nothing else', async () => {
    await withEngine(async ({ tree }) => {
      const good = tree.open([1]);
      const bad = tree.append(good, [100_000]);
      expect(await codeOf(tree.readout([tree.append(bad, [1])], Int32Array.of(1)))).toBe('TOKEN_OUT_OF_RANGE');
      expect(await codeOf(tree.fork([good, bad], SAMPLING))).toBe('TOKEN_OUT_OF_RANGE');
      expect(await codeOf(tree.readout([good], Int32Array.of(1)))).toBe('resolved');
      expect(() => tree.open([2 ** 32 + 1])).toThrow('expected a token id');
      const fork = await tree.fork([good], SAMPLING);
      expect(() => tree.commit(good, fork)).toThrow('expected a candidate of the fork');
    });
  });

  it('ends an aborted request alone, with the reason as its cause', async () => {
    await withEngine(async ({ tree }) => {
      const long = { ...SAMPLING, minNewTokens: 240, maxNewTokens: 240 };
      const controller = new AbortController();
      const nodes = Array.from({ length: 20 }, (_, i) => tree.open([i, 1]));
      const aborted = Promise.allSettled(nodes.map((node) => tree.fork([node], long, { signal: controller.signal })));
      const kept = tree.fork([tree.open([30, 1])], long);
      controller.abort(new Error('enough'));
      // On a machine that pauses here the first of them may have ended before.
      const ended = (await aborted).filter(({ status }) => status === 'rejected');
      expect(ended.length).toBeGreaterThan(0);
      for (const outcome of ended) {
        expect(outcome).toMatchObject({ reason: { code: 'CANCELLED', cause: { message: 'enough' } } });
      }
      expect((await kept).finish.length).toBe(4);
    });
  });

  it('reads with new weights after a step of training, and with the old ones what was asked before', async () => {
    await withEngine(async (engine) => {
      const { tree } = engine;
      const prompt = tree.open([1, 2, 3]);
      const label = Int32Array.of(4);
      const before = tree.readout([prompt], label);
      const trainer = await engine.createTrainer({ optimizer: 'sgd' });
      const forest = { tokens: Int32Array.of(1, 2, 3, 4), offsets: Int32Array.of(0, 4), parents: Int32Array.of(-1) };
      await trainer.accumulateSft({ forest, segmentWeight: Float32Array.of(1), tokenNorm: 3 });
      await trainer.apply(0.1);
      await trainer.dispose();
      const [after] = await tree.readout([prompt], label);
      expect(after).toBeGreaterThan((await before)[0] as number);
      const { logprobs } = await engine.score(forest, Uint8Array.of(1));
      expect(after).toBeCloseTo(logprobs[3] as number, 5);
    });
  });

  it('settles what is in flight when its engine is disposed', async () => {
    const engine = await Engine.load({ directory, device: 'cpu', dtype: 'float32' });
    const work = engine.tree.fork([engine.tree.open([1, 2])], { ...SAMPLING, minNewTokens: 40, maxNewTokens: 40 });
    await engine.dispose();
    expect((await work).finish.length).toBe(4);
  });
});
