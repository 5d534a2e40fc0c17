// A loaded model on its own native thread: sampling, scoring and saving as promises that take an AbortSignal. Jobs of an
// engine run one at a time in the order they were called; requests of its tree run together, and other jobs wait for
// those before them. Knows token ids and tensors' results, no text and no prompts.

import { callNative } from './call.js';
import { withCancel } from './cancel.js';
import type { NativeAddon, NativeGenerateRequest, NativeHandle } from './contract.js';
import { loadAddon } from './load.js';
import { DEFAULT_KV_BUDGET_MIB, defined, nativeSampling, toSeed } from './options.js';
import { TokenTree } from './token-tree.js';
import { nativeTrainerOptions, Trainer } from './trainer.js';
import type {
  EngineLike,
  EngineOptions,
  ForestData,
  GenerateRequest,
  GenerateResult,
  ModelInfo,
  ReadoutResult,
  ScoreResult,
  TrainerOptions,
} from './types.js';

export class Engine implements EngineLike, AsyncDisposable {
  readonly info: ModelInfo;
  /** The rollout engine's token tree: many requests at once, and prefixes that stay computed between them. */
  readonly tree: TokenTree;
  readonly #addon: NativeAddon;
  readonly #handle: NativeHandle;

  private constructor(addon: NativeAddon, handle: NativeHandle) {
    this.#addon = addon;
    this.#handle = handle;
    this.info = addon.modelInfo(handle);
    this.tree = new TokenTree(addon, handle, this.info.eosIds);
  }

  /** Loads a Hugging Face folder, or with `initSeed` its config.json alone and random weights. */
  static load(options: EngineOptions): Promise<Engine> {
    const { signal, initSeed, ...rest } = options;
    return callNative(async () => {
      const addon = loadAddon();
      const native = {
        device: 'auto' as const,
        dtype: 'auto' as const,
        kvBudgetBytes: DEFAULT_KV_BUDGET_MIB * 2 ** 20,
        sharePrefixes: true,
        bf16Panels: false,
        ...defined(rest),
        directory: rest.directory,
        ...(initSeed !== undefined && { initSeed: toSeed(initSeed, 'initSeed') }),
      };
      return new Engine(addon, await withCancel(addon, signal, (token) => addon.loadModel(native, token)));
    });
  }

  /** Text of every token id, bytes[offsets[id]..offsets[id + 1]); generate's `stop` needs it. */
  setTokenBytes(bytes: Uint8Array, offsets: Int32Array): Promise<void> {
    return callNative(() => this.#addon.setTokenBytes(this.#handle, bytes, offsets));
  }

  /**
   * Samples continuations of tree nodes. Defaults: GenerateRequest's; treeKeys 0, 1, 2, ..., steps 0, firstCandidate 0,
   * eosIds the model's, stop none. `onProgress` gets the number of finished rows; what it throws ends the call.
   */
  async generate(
    request: GenerateRequest,
    { signal, onProgress }: { signal?: AbortSignal; onProgress?: (rowsDone: number) => void } = {},
  ): Promise<GenerateResult> {
    const thrown: unknown[] = [];
    const work = callNative(() =>
      withCancel(this.#addon, signal, (token) => {
        const report = (rowsDone: number) => {
          if (thrown.length > 0) return;
          try {
            onProgress?.(rowsDone);
          } catch (error) {
            thrown.push(error);
            this.#addon.cancel(token);
          }
        };
        return this.#addon.generate(this.#handle, this.#nativeRequest(request), token, onProgress && report);
      }),
    );
    const result = await work.catch((error) => {
      throw thrown.length > 0 ? thrown[0] : error;
    });
    if (thrown.length > 0) throw thrown[0];
    return result;
  }

  /** Log-probs [nodes, labels] of each label as the next token after each node. */
  readout(forest: ForestData, nodes: Int32Array, labels: Int32Array, signal?: AbortSignal): Promise<ReadoutResult> {
    return callNative(() =>
      withCancel(this.#addon, signal, (token) => this.#addon.readout(this.#handle, forest, nodes, labels, token)),
    );
  }

  /** Log-probs of the tokens of every segment marked in `scored`, each conditioned on its path from the root. */
  score(forest: ForestData, scored: Uint8Array, { signal }: { signal?: AbortSignal } = {}): Promise<ScoreResult> {
    return callNative(() =>
      withCancel(this.#addon, signal, (token) => this.#addon.score(this.#handle, forest, scored, token)),
    );
  }

  /** Writes a Hugging Face folder with the current weights; a failure leaves an older folder whole. */
  save(directory: string): Promise<void> {
    return callNative(() => this.#addon.saveModel(this.#handle, directory));
  }

  /**
   * 32 hexadecimal digits over the weights' names and values and the config fields that a forward pass reads, for keys of
   * caches: equal hashes mean equal log-probs.
   */
  weightsHash(): Promise<string> {
    return callNative(() => this.#addon.weightsHash(this.#handle));
  }

  /** An engine has at most one live trainer. */
  createTrainer(options?: TrainerOptions): Promise<Trainer> {
    return callNative(async () => {
      const handle = await this.#addon.createTrainer(this.#handle, nativeTrainerOptions(options));
      return new Trainer(this.#addon, handle);
    });
  }

  /**
   * Frees the model after the jobs queued before. Where a trainer of it is still live, the model goes with that trainer.
   * A second call does nothing.
   */
  dispose(): Promise<void> {
    return callNative(() => this.#addon.dispose(this.#handle));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #nativeRequest(request: GenerateRequest): NativeGenerateRequest {
    const { forest, nodes } = request;
    return {
      samples: 1,
      treeKeys: BigUint64Array.from(nodes, (_, i) => BigInt(i)),
      steps: new Int32Array(nodes.length),
      firstCandidate: 0,
      ...nativeSampling(request, this.info.eosIds),
      forest,
      nodes,
    };
  }
}
