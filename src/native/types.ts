// What the loop and the commands need of an engine. Engine (engine.ts) implements it over the addon;
// test/helpers/fake-engine.ts implements it without one.

import type {
  ForestData,
  ModelInfo,
  NativeGenerateRequest,
  NativeGenerateResult,
  NativeLoraOptions,
  NativePreferenceBatch,
  NativePreferenceResult,
  NativeReadoutResult,
  NativeScoreResult,
  NativeSftBatch,
  NativeSftResult,
} from './contract.js';

export type { ForestData, ModelInfo, PreferenceLossKind } from './contract.js';

export interface EngineOptions {
  directory: string;
  device?: 'auto' | 'cpu' | 'cuda';
  dtype?: 'auto' | 'float32' | 'bfloat16';
  /** Set: random weights from the folder's config.json. */
  initSeed?: number;
  /** Default 2 GiB. */
  kvBudgetBytes?: number;
  signal?: AbortSignal;
}

/** Sampling options with defaults: samples 1, seed 0, temperature 1, topP 1, topK 0, minNewTokens 0, maxNewTokens 256. */
export interface GenerateRequest extends Partial<Omit<NativeGenerateRequest, 'forest' | 'nodes' | 'seed'>> {
  forest: ForestData;
  nodes: Int32Array;
  /** Integer >= 0. */
  seed?: number;
}
export type GenerateResult = NativeGenerateResult;
export type ReadoutResult = NativeReadoutResult;
export type ScoreResult = NativeScoreResult;
export type PreferenceBatch = NativePreferenceBatch;
export type PreferenceResult = NativePreferenceResult;
export type SftBatch = NativeSftBatch;
export type SftResult = NativeSftResult;

/** Defaults: adamw, betas 0.9 and 0.999, eps 1e-8, weight decay 0, no clipping, no LoRA. */
export interface TrainerOptions {
  optimizer?: 'adamw' | 'sgd';
  beta1?: number;
  beta2?: number;
  eps?: number;
  weightDecay?: number;
  maxGradNorm?: number;
  lora?: Omit<NativeLoraOptions, 'seed'> & { seed?: number };
}

export interface TrainerLike {
  accumulatePreference(batch: PreferenceBatch, signal?: AbortSignal): Promise<PreferenceResult>;
  accumulateSft(batch: SftBatch, signal?: AbortSignal): Promise<SftResult>;
  referenceLogprobs(batch: PreferenceBatch, signal?: AbortSignal): Promise<Float32Array>;
  /** Clips, steps, clears; the gradient norm before clipping. */
  apply(learningRate: number): Promise<number>;
  zeroGrad(): Promise<void>;
  saveAdapter(directory: string, baseModel: string): Promise<void>;
  mergeAdapter(): Promise<void>;
  dispose(): Promise<void>;
}

export interface EngineLike {
  readonly info: ModelInfo;
  setTokenBytes(bytes: Uint8Array, offsets: Int32Array): Promise<void>;
  generate(
    request: GenerateRequest,
    options?: { signal?: AbortSignal; onProgress?: (rowsDone: number) => void },
  ): Promise<GenerateResult>;
  readout(forest: ForestData, nodes: Int32Array, labels: Int32Array, signal?: AbortSignal): Promise<ReadoutResult>;
  /** maxTokens: micro-batch size in tokens, default 8192. */
  score(
    forest: ForestData,
    scored: Uint8Array,
    options?: { maxTokens?: number; signal?: AbortSignal },
  ): Promise<ScoreResult>;
  save(directory: string): Promise<void>;
  weightsHash(): Promise<string>;
  createTrainer(options?: TrainerOptions): Promise<TrainerLike>;
  dispose(): Promise<void>;
}
