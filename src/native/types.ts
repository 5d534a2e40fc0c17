// What the loop and the commands need of an engine. Engine (engine.ts) implements it over the addon;
// test/helpers/fake-engine.ts implements it without one.

import type {
  ForestData,
  MicroBatchShape,
  ModelInfo,
  NativeCompletions,
  NativeCompletionValues,
  NativeForkRequest,
  NativeForkResult,
  NativeGenerateRequest,
  NativeGenerateResult,
  NativeLoraOptions,
  NativePreferenceBatch,
  NativePreferenceResult,
  NativeReadoutResult,
  NativeScoreResult,
  NativeSftBatch,
  NativeSftResult,
  RolloutCounters,
  TrainingMemory,
} from './contract.js';

export type {
  ForestData,
  MicroBatchShape,
  ModelInfo,
  PreferenceLossKind,
  RolloutCounters,
  TokenStatistics,
  TrainingMemory,
} from './contract.js';

export interface EngineOptions {
  directory: string;
  device?: 'auto' | 'cpu' | 'cuda';
  dtype?: 'auto' | 'float32' | 'bfloat16';
  /** Set: random weights from the folder's config.json. */
  initSeed?: number;
  /** Folder of a LoRA adapter in PEFT's files, merged into the weights in memory. */
  adapter?: string;
  /** Default false. true: take the adapter also where it names other base weights. */
  allowOtherBase?: boolean;
  /** Memory for keys and values of the rollout engine. Default 2 GiB. */
  kvBudgetBytes?: number;
  /** Default true. false: no prefix is computed or read once for several rows; for measurements. */
  sharePrefixes?: boolean;
  /**
   * Default false. true: rollouts read a float32 model's weights as bfloat16, with float32 arithmetic: half the memory
   * traffic while few rows are decoded, on any CPU, at the price of rounded weights. For float32 models on the CPU.
   */
  bf16Panels?: boolean;
  signal?: AbortSignal;
}

/** Sampling options with defaults: samples 1, seed 0, temperature 1, topP 1, topK 0, minP 0, minNewTokens 0, maxNewTokens 256. */
export interface GenerateRequest extends Partial<Omit<NativeGenerateRequest, 'forest' | 'nodes' | 'seed'>> {
  forest: ForestData;
  nodes: Int32Array;
  /** Integer >= 0. */
  seed?: number;
}
export type GenerateResult = NativeGenerateResult;

/** A segment of the rollout engine's tree that its caller holds. */
export type NodeNumber = number;
/** Defaults as GenerateRequest's; treeKeys 0, 1, 2, ..., steps 0. */
export interface ForkRequest extends Partial<Omit<NativeForkRequest, 'seed'>> {
  seed?: number;
}
export type ForkResult = NativeForkResult;

export interface RequestOptions {
  signal?: AbortSignal | undefined;
  /** Lower first: one number for all requests of a tree makes the engine finish open trees first. Default 0. */
  priority?: number;
}

/** See TokenTree in token-tree.ts. */
export interface TokenTreeLike {
  open(ids: ArrayLike<number>): NodeNumber;
  append(node: NodeNumber, ids: ArrayLike<number>): NodeNumber;
  plant(forest: ForestData, parent?: NodeNumber): NodeNumber;
  release(nodes: ArrayLike<NodeNumber>): void;
  commit(node: NodeNumber | undefined, fork: Pick<ForkResult, 'firstNode' | 'finish'>): void;
  fork(nodes: ArrayLike<NodeNumber>, request: ForkRequest, options?: RequestOptions): Promise<ForkResult>;
  readout(nodes: ArrayLike<NodeNumber>, labels: Int32Array, options?: RequestOptions): Promise<Float32Array>;
  score(node: NodeNumber, suffixes: readonly ArrayLike<number>[], options?: RequestOptions): Promise<Float32Array[]>;
  counters(): Promise<RolloutCounters>;
}

export type ReadoutResult = NativeReadoutResult;
export type ScoreResult = NativeScoreResult;
export type PreferenceBatch = NativePreferenceBatch;
export type PreferenceResult = NativePreferenceResult;
export type Completions = NativeCompletions;
export type CompletionValues = NativeCompletionValues;
export type SftBatch = NativeSftBatch;
export type SftResult = NativeSftResult;

/** Defaults: adamw, betas 0.9 and 0.999, eps 1e-8, weight decay 0, no clipping, no LoRA, nothing frozen. */
export interface TrainerOptions {
  optimizer?: 'adamw' | 'sgd';
  beta1?: number;
  beta2?: number;
  eps?: number;
  weightDecay?: number;
  maxGradNorm?: number;
  lora?: Omit<NativeLoraOptions, 'seed'> & { seed?: number };
  /** Folder of a LoRA adapter in PEFT's files to go on training, in place of `lora`. */
  adapter?: string;
  /** Default false. true: take the adapter also where it names other base weights. */
  allowOtherBase?: boolean;
  /** Patterns of Hugging Face weight names (* and ?) that are not trained: model.embed_tokens.*, model.layers.0.*. */
  freeze?: string[];
}

export interface TrainerLike {
  accumulatePreference(batch: PreferenceBatch, signal?: AbortSignal): Promise<PreferenceResult>;
  forwardPreference(completions: Completions, signal?: AbortSignal): Promise<CompletionValues>;
  /** grad: [C] d loss / d log-prob of the completions of the forwardPreference just before. */
  backwardPreference(grad: Float64Array, signal?: AbortSignal): Promise<void>;
  accumulateSft(batch: SftBatch, signal?: AbortSignal): Promise<SftResult>;
  referenceLogprobs(completions: Completions, signal?: AbortSignal): Promise<Float64Array>;
  /** Clips, steps, clears; the gradient norm before clipping. */
  apply(learningRate: number): Promise<number>;
  /** Memory that a step over micro-batches of this shape takes at its peak, by formula. */
  memory(shape: MicroBatchShape): Promise<TrainingMemory>;
  /** Whether layers keep only their input for the backward pass and run again there. */
  setCheckpointLayers(on: boolean): Promise<void>;
  zeroGrad(): Promise<void>;
  saveAdapter(directory: string, baseModel: string): Promise<void>;
  mergeAdapter(): Promise<void>;
  /** The optimiser's state as one safetensors file. */
  saveState(file: string): Promise<void>;
  /** Goes on from a saved state and the model or adapter folder saved with it. */
  loadState(file: string, parameters: string): Promise<void>;
  dispose(): Promise<void>;
}

export interface EngineLike {
  readonly info: ModelInfo;
  readonly tree: TokenTreeLike;
  setTokenBytes(bytes: Uint8Array, offsets: Int32Array): Promise<void>;
  generate(
    request: GenerateRequest,
    options?: { signal?: AbortSignal; onProgress?: (rowsDone: number) => void },
  ): Promise<GenerateResult>;
  readout(forest: ForestData, nodes: Int32Array, labels: Int32Array, signal?: AbortSignal): Promise<ReadoutResult>;
  score(forest: ForestData, scored: Uint8Array, options?: { signal?: AbortSignal }): Promise<ScoreResult>;
  save(directory: string): Promise<void>;
  weightsHash(): Promise<string>;
  createTrainer(options?: TrainerOptions): Promise<TrainerLike>;
  dispose(): Promise<void>;
}
