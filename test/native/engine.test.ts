// The idiomatic engine: loading, defaults, order of jobs, aborting, errors as StepwardErrors, and saving.

import { getEventListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { StepwardError } from '../../src/errors.js';
import { Engine } from '../../src/native/engine.js';
import { setThreads, systemInfo } from '../../src/native/system.js';
import type { ModelInfo } from '../../src/native/types.js';
import { expectNoLiveHandles } from '../helpers/live-handles.js';
import { ENDLESS, smallForest, tinyModels } from '../helpers/tiny-model.js';

expectNoLiveHandles();
const tinyModel = tinyModels();

async function withEngine<T>(use: (engine: Engine) => Promise<T>, changes: Record<string, unknown> = {}): Promise<T> {
  const engine = await Engine.load({ directory: tinyModel('llama', changes), device: 'cpu', initSeed: 1 });
  try {
    return await use(engine);
  } finally {
    await engine.dispose();
  }
}

const leaves = () => ({ forest: smallForest(), nodes: Int32Array.of(1, 2) });
const endless = () => ({ ...leaves(), samples: 4, eosIds: new Int32Array(0), maxNewTokens: 900_000 });
const all = Uint8Array.of(1, 1, 1);

/** Resolves once the generation has sampled its first rows' tokens for a while; the rows never end by themselves. */
const inFlight = () => new Promise((resolve) => setTimeout(resolve, 100));

describe('loading', () => {
  it('tells what was loaded', async () => {
    await withEngine(async (engine) => {
      expect(engine.info).toEqual({
        family: 'llama',
        vocabSize: 64,
        hiddenSize: 32,
        numLayers: 2,
        maxPositions: 128,
        // embedding and head 2 * 64 * 32, layers 2 * (q, o 2 * 32 * 32; k, v 2 * 16 * 32; mlp 3 * 32 * 64; norms 2 * 32), norm 32
        parameters: 4096 + 2 * (2048 + 1024 + 6144 + 64) + 32,
        eosIds: [1],
        device: 'cpu',
        dtype: 'float32',
      });
    });
  });

  it('fails by code for a missing folder, an unknown device and a bad seed', async () => {
    await expect(Engine.load({ directory: '/no/such/folder' })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    const directory = tinyModel();
    await expect(Engine.load({ directory, initSeed: 1, device: 'tpu' as 'cpu' })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    await expect(Engine.load({ directory, initSeed: -1 })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: 'initSeed: expected an integer from 0 to 2^53 - 1, got -1',
    });
  });

  it('is refused under an aborted signal and can be aborted', async () => {
    const directory = tinyModel();
    const reason = new Error('changed my mind');
    const before = Engine.load({ directory, initSeed: 1, signal: AbortSignal.abort(reason) });
    await expect(before).rejects.toMatchObject({ code: 'CANCELLED', cause: reason });
    const controller = new AbortController();
    // Large enough that loading is not over before the abort: what has finished by then resolves.
    const larger = tinyModel('llama', { ...ENDLESS, num_hidden_layers: 24 });
    const during = Engine.load({ directory: larger, initSeed: 1, signal: controller.signal });
    controller.abort(reason);
    await expect(during).rejects.toMatchObject({ code: 'CANCELLED', cause: reason });
  });

  it('the same seed gives the same weights, another seed others', async () => {
    const directory = tinyModel();
    const hash = async (initSeed: number) => {
      await using engine = await Engine.load({ directory, initSeed, device: 'cpu' });
      return engine.weightsHash();
    };
    const first = await hash(1);
    expect(first).toMatch(/^[0-9a-f]{32}$/);
    expect(await hash(1)).toBe(first);
    expect(await hash(2)).not.toBe(first);
  });

  it('equal weights under another config have another hash, where a forward pass reads what differs', async () => {
    const hash = async (family: ModelInfo['family'], changes: object) => {
      await using engine = await Engine.load({ directory: tinyModel(family, { ...changes }), initSeed: 1 });
      return engine.weightsHash();
    };
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 };
    const models: [ModelInfo['family'], object][] = [
      ['mistral', { sliding_window: null }],
      ['mistral', { sliding_window: 16 }],
      ['llama', { rope_theta: 20000 }],
      ['llama', { rms_norm_eps: 1e-6 }],
      ['llama', { rope_scaling: { rope_type: 'linear', factor: 2 } }],
      ['llama', { rope_scaling: { rope_type: 'linear', factor: 4 } }],
      ['llama', { rope_scaling: yarn }],
      ['llama', { rope_scaling: { ...yarn, beta_fast: 16 } }],
      // The same shapes: 32 rows of queries, 16 of keys.
      ['llama', { num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16 }],
    ];
    const hashes = [];
    for (const [family, changes] of models) hashes.push(await hash(family, changes));
    expect(new Set(hashes).size).toBe(models.length);
    // Without windows the two families compute the same.
    expect(await hash('llama', { eos_token_id: 2, max_position_embeddings: 64 })).toBe(hashes[0]);
  });

  it('a saved model loads with the same weights', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'stepward-save-'));
    try {
      const hash = await withEngine(async (engine) => {
        await engine.save(folder);
        return engine.weightsHash();
      });
      await using again = await Engine.load({ directory: folder, device: 'cpu' });
      expect(await again.weightsHash()).toBe(hash);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('work', () => {
  it('generates with defaults, whatever else is in the batch', async () => {
    await withEngine(async (engine) => {
      const both = await engine.generate({ ...leaves(), maxNewTokens: 8 });
      const second = await engine.generate({
        forest: smallForest(),
        nodes: Int32Array.of(2),
        treeKeys: BigUint64Array.of(1n),
        maxNewTokens: 8,
      });
      expect(both.offsets).toHaveLength(3);
      expect(both.tokens.subarray(both.offsets[1])).toEqual(second.tokens);
    });
  });

  it('reports progress up to all rows', async () => {
    await withEngine(async (engine) => {
      const seen: number[] = [];
      const request = { ...leaves(), samples: 8, maxNewTokens: 4 };
      await engine.generate(request, { onProgress: (rows) => seen.push(rows) });
      expect(seen.at(-1)).toBe(16);
      expect(seen).toEqual([...seen].sort((a, b) => a - b));
    });
  });

  it('an error thrown by onProgress ends the call with that error', async () => {
    await withEngine(async (engine) => {
      const error = new RangeError('of the caller');
      const request = { ...leaves(), samples: 8, maxNewTokens: 100 };
      const work = engine.generate(request, {
        onProgress: () => {
          throw error;
        },
      });
      await expect(work).rejects.toBe(error);
      expect((await engine.score(smallForest(), all)).computedTokens).toBe(4);
    });
  });

  it('runs in the order of the calls', async () => {
    await withEngine(async (engine) => {
      const order: string[] = [];
      const note = (name: string) => () => order.push(name);
      const long = {
        tokens: new Int32Array(100).fill(2),
        offsets: Int32Array.of(0, 100),
        parents: Int32Array.of(-1),
      };
      await Promise.all([
        engine.score(long, Uint8Array.of(1)).then(note('long score')),
        engine.score(smallForest(), all).then(note('score')),
        engine.readout(long, Int32Array.of(0), Int32Array.of(4, 5)).then(note('long readout')),
        engine.readout(smallForest(), Int32Array.of(1), Int32Array.of(4, 5)).then(note('readout')),
      ]);
      expect(order).toEqual(['long score', 'score', 'long readout', 'readout']);
    });
  });

  it('a job sees what the jobs called before it left, without waiting for them', async () => {
    await withEngine(async (engine) => {
      await using trainer = await engine.createTrainer({ optimizer: 'sgd' });
      const batch = { forest: smallForest(), segmentWeight: Float32Array.of(0, 1, 1), tokenNorm: 4 };
      const [before, , , after, repeated] = await Promise.all([
        engine.weightsHash(),
        trainer.accumulateSft(batch),
        trainer.apply(0.1),
        engine.weightsHash(),
        engine.weightsHash(),
      ]);
      expect(after).not.toBe(before);
      expect(repeated).toBe(after);
    });
  });

  it('readout agrees with score', async () => {
    await withEngine(async (engine) => {
      const { logprobs } = await engine.score(smallForest(), all);
      const read = await engine.readout(smallForest(), Int32Array.of(0), Int32Array.of(4, 6));
      expect(Array.from(logprobs)).toEqual([Number.NaN, ...Array<unknown>(5).fill(expect.any(Number))]);
      expect(read.logprobs[0]).toBeCloseTo(logprobs[2]!, 5);
      expect(read.logprobs[1]).toBeCloseTo(logprobs[4]!, 5);
    });
  });

  it('trains, also between other jobs', async () => {
    await withEngine(async (engine) => {
      const before = await engine.weightsHash();
      await using trainer = await engine.createTrainer({ optimizer: 'sgd' });
      const batch = { forest: smallForest(), segmentWeight: Float32Array.of(0, 1, 1), tokenNorm: 4 };
      const losses: number[] = [];
      for (let i = 0; i < 3; i++) {
        losses.push((await trainer.accumulateSft(batch)).loss);
        await engine.generate({ ...leaves(), maxNewTokens: 2 });
        expect(await trainer.apply(0.1)).toBeGreaterThan(0);
      }
      expect(losses[2]).toBeLessThan(losses[0]!);
      expect(await engine.weightsHash()).not.toBe(before);
      await trainer.accumulateSft(batch);
      await trainer.zeroGrad();
      expect(await trainer.apply(0.1)).toBe(0);
    });
  });
});

describe('aborting', () => {
  it('ends generation in flight, with the reason as cause, and leaves the engine usable', async () => {
    await withEngine(async (engine) => {
      const controller = new AbortController();
      const work = engine.generate(endless(), { signal: controller.signal });
      const settled = expect(work).rejects.toMatchObject({ code: 'CANCELLED', cause: 'enough' });
      await inFlight();
      controller.abort('enough');
      await settled;
      expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0);
      expect((await engine.score(smallForest(), all)).computedTokens).toBe(4);
    }, ENDLESS);
  });

  it('takes a queued job out at once, while the job before it runs on', async () => {
    await withEngine(async (engine) => {
      const first = new AbortController();
      const second = new AbortController();
      let running = true;
      const work = engine.generate(endless(), { signal: first.signal }).catch((error: StepwardError) => {
        running = false;
        return error;
      });
      const queued = engine.score(smallForest(), all, { signal: second.signal });
      const settled = expect(queued).rejects.toMatchObject({ code: 'CANCELLED' });
      await inFlight();
      second.abort();
      await settled;
      expect(running).toBe(true);
      first.abort();
      expect(await work).toMatchObject({ code: 'CANCELLED' });
    }, ENDLESS);
  });

  it('an aborted signal runs nothing and costs no listener', async () => {
    await withEngine(async (engine) => {
      const signal = AbortSignal.abort();
      await expect(engine.score(smallForest(), all, { signal })).rejects.toMatchObject({ code: 'CANCELLED' });
      const live = new AbortController().signal;
      await engine.score(smallForest(), all, { signal: live });
      expect(getEventListeners(live, 'abort')).toHaveLength(0);
    });
  });

  it('training can be aborted, which drops the gradients of the step', async () => {
    await withEngine(async (engine) => {
      await using trainer = await engine.createTrainer({ optimizer: 'sgd' });
      const batch = { forest: smallForest(), segmentWeight: Float32Array.of(0, 1, 1), tokenNorm: 4 };
      await expect(trainer.accumulateSft(batch, AbortSignal.abort())).rejects.toMatchObject({ code: 'CANCELLED' });
      expect(await trainer.apply(0.1)).toBe(0);
    });
  });
});

describe('errors', () => {
  it('are StepwardErrors that lead to the caller and keep the native error as cause', async () => {
    await withEngine(async (engine) => {
      async function theCaller() {
        const forest = { ...smallForest(), tokens: Int32Array.of(2, 3, 4, 5, 6, 64) };
        return await engine.score(forest, all);
      }
      const error = await theCaller().then(
        () => undefined,
        (thrown: unknown) => thrown as StepwardError,
      );
      expect(error).toBeInstanceOf(StepwardError);
      expect(error).toMatchObject({ code: 'TOKEN_OUT_OF_RANGE', exitCode: 2, cause: { code: 'TOKEN_OUT_OF_RANGE' } });
      expect(error?.message).toContain('64');
      expect(error?.message).not.toMatch(/frame #|\n/);
      expect(error?.stack).toContain('theCaller');
      expect((await engine.score(smallForest(), all)).computedTokens).toBe(4);
    });
  });

  it('of libtorch have no C++ frames in the message; those are in the cause', async () => {
    // 50M x 1M float32: 200 TB, refused by any allocator.
    const directory = tinyModel('llama', { vocab_size: 50_000_000, hidden_size: 1_000_000, intermediate_size: 4 });
    const error = await Engine.load({ directory, device: 'cpu', initSeed: 1 }).then(
      () => undefined,
      (thrown: unknown) => thrown as StepwardError,
    );
    expect(error).toMatchObject({ code: 'OUT_OF_MEMORY', exitCode: 1 });
    expect(error?.message).toMatch(/^can't allocate memory: .* 200000000000000 bytes[^\n]*$/);
    expect((error?.cause as { nativeTrace?: string } | undefined)?.nativeTrace).toContain('frame #0');
  });

  it('after disposal is HANDLE_INVALID; disposing again is not', async () => {
    const engine = await withEngine(async (e) => e);
    await expect(engine.score(smallForest(), all)).rejects.toMatchObject({ code: 'HANDLE_INVALID' });
    await engine.dispose();
  });
});

describe('the machine', () => {
  it('is described, and the thread count can be set', () => {
    const info = systemInfo();
    expect(info.torch).toMatch(/^2\.\d+\.\d+/);
    expect(info.threads).toBeGreaterThanOrEqual(1);
    expect(info.cpuBfloat16).toBe(info.cpuFeatures.some((feature) => feature.endsWith('_bf16')));
    setThreads(3);
    expect(systemInfo().threads).toBe(3);
    setThreads(info.threads);
  });

  it('log-probs do not depend on the thread count beyond rounding', async () => {
    await withEngine(async (engine) => {
      const { threads } = systemInfo();
      setThreads(1);
      const one = await engine.score(smallForest(), all);
      setThreads(2);
      const two = await engine.score(smallForest(), all);
      setThreads(threads);
      for (let i = 1; i < 6; i++) expect(two.logprobs[i]).toBeCloseTo(one.logprobs[i]!, 5);
    });
  });
});
