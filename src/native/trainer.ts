// Training an engine's weights: gradients of packed micro-batches, accumulated until apply(). Batches, schedules and
// metrics are src/training's.

import { callNative } from './call.js';
import { withCancel } from './cancel.js';
import type { MicroBatchShape, NativeAddon, NativeHandle, NativeTrainerOptions, TrainingMemory } from './contract.js';
import { defined, toSeed } from './options.js';
import type {
  Completions,
  CompletionValues,
  PreferenceBatch,
  PreferenceResult,
  SftBatch,
  SftResult,
  TrainerLike,
  TrainerOptions,
} from './types.js';

/** Made by Engine.createTrainer. Keeps its engine's model alive until disposed, even when the engine goes first. */
export class Trainer implements TrainerLike, AsyncDisposable {
  readonly #addon: NativeAddon;
  readonly #handle: NativeHandle;

  constructor(addon: NativeAddon, handle: NativeHandle) {
    this.#addon = addon;
    this.#handle = handle;
  }

  /** Forward and backward of a micro-batch. After a failure or an abort, the gradients of the step are dropped. */
  accumulatePreference(batch: PreferenceBatch, signal?: AbortSignal): Promise<PreferenceResult> {
    return this.#dropOnFailure(
      callNative(() =>
        withCancel(this.#addon, signal, (token) => this.#addon.accumulatePreference(this.#handle, batch, token)),
      ),
    );
  }

  /**
   * Log-probs of completions for a loss of the caller's own, whose gradient goes to backwardPreference. What that needs is
   * kept until it, or until the next call that trains or drops gradients. After a failure or an abort, the gradients of
   * the step are dropped.
   */
  forwardPreference(completions: Completions, signal?: AbortSignal): Promise<CompletionValues> {
    return this.#dropOnFailure(
      callNative(() =>
        withCancel(this.#addon, signal, (token) => this.#addon.forwardPreference(this.#handle, completions, token)),
      ),
    );
  }

  /**
   * Adds the weights' gradients for `grad`, [C] finite: d loss / d log-prob of the completions of the forwardPreference just
   * before. Throws INVALID_ARGUMENT without one, NUMERICAL for a number that is not finite. After a failure or an abort,
   * the gradients of the step are dropped.
   */
  backwardPreference(grad: Float64Array, signal?: AbortSignal): Promise<void> {
    return this.#dropOnFailure(
      callNative(() =>
        withCancel(this.#addon, signal, (token) => this.#addon.backwardPreference(this.#handle, grad, token)),
      ),
    );
  }

  /** Forward and backward of a micro-batch. After a failure or an abort, the gradients of the step are dropped. */
  accumulateSft(batch: SftBatch, signal?: AbortSignal): Promise<SftResult> {
    return this.#dropOnFailure(
      callNative(() =>
        withCancel(this.#addon, signal, (token) => this.#addon.accumulateSft(this.#handle, batch, token)),
      ),
    );
  }

  /** [C] log-prob of each completion under the weights now, with adapters off or those that training started from. */
  referenceLogprobs(completions: Completions, signal?: AbortSignal): Promise<Float64Array> {
    return callNative(() =>
      withCancel(this.#addon, signal, (token) => this.#addon.referenceLogprobs(this.#handle, completions, token)),
    );
  }

  /** Clips, steps, clears; resolves to the gradient norm before clipping. */
  apply(learningRate: number): Promise<number> {
    return callNative(() => this.#addon.applyGradients(this.#handle, learningRate));
  }

  /** Memory that a step over micro-batches of this shape takes at its peak, by formula: nothing is computed. */
  memory(shape: MicroBatchShape): Promise<TrainingMemory> {
    return callNative(() => this.#addon.trainingMemory(this.#handle, shape));
  }

  /** Whether layers keep only their input for the backward pass and run again there (arXiv 1604.06174). Default: off. */
  setCheckpointLayers(on: boolean): Promise<void> {
    return callNative(() => this.#addon.setCheckpointLayers(this.#handle, on));
  }

  /** Drops accumulated gradients. */
  zeroGrad(): Promise<void> {
    return callNative(() => this.#addon.zeroGrad(this.#handle));
  }

  /** A job cancelled while it was queued never reached the core, which drops gradients in every other case. */
  async #dropOnFailure<T>(job: Promise<T>): Promise<T> {
    try {
      return await job;
    } catch (error) {
      await this.#addon.zeroGrad(this.#handle).catch(() => undefined);
      throw error;
    }
  }

  /** Writes the LoRA adapter as PEFT does. */
  saveAdapter(directory: string, baseModel: string): Promise<void> {
    return callNative(() => this.#addon.saveAdapter(this.#handle, directory, baseModel));
  }

  /** Adds the LoRA adapter into the engine's weights and removes it. */
  mergeAdapter(): Promise<void> {
    return callNative(() => this.#addon.mergeAdapter(this.#handle));
  }

  /**
   * Writes the optimiser's moments, step counts and float32 masters as one safetensors file. The weights are saved by
   * Engine.save, or with LoRA by saveAdapter.
   */
  saveState(file: string): Promise<void> {
    return callNative(() => this.#addon.saveTrainerState(this.#handle, file));
  }

  /**
   * Goes on where saveState left off: `parameters` is the model folder, or with LoRA the adapter folder, saved at the same
   * step. Throws CHECKPOINT_INVALID, and changes nothing, where the optimiser or the parameters are not this trainer's.
   */
  loadState(file: string, parameters: string): Promise<void> {
    return callNative(() => this.#addon.loadTrainerState(this.#handle, file, parameters));
  }

  /** Frees optimiser state and adapters after the jobs queued before. A second call does nothing. */
  dispose(): Promise<void> {
    return callNative(() => this.#addon.dispose(this.#handle));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** Fills in the defaults of TrainerOptions. Throws INVALID_ARGUMENT for a bad LoRA seed. */
export function nativeTrainerOptions(options: TrainerOptions = {}): NativeTrainerOptions {
  const { lora, ...rest } = options;
  return {
    optimizer: 'adamw',
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weightDecay: 0,
    maxGradNorm: 0,
    ...defined(rest),
    ...(lora && { lora: { ...lora, seed: toSeed(lora.seed ?? 0, 'lora.seed') } }),
  };
}
