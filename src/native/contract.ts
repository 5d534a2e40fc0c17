// The native addon's interface, exactly as native/addon exports it. Nothing here is idiomatic; engine.ts is.
// Flat typed arrays cross the boundary by copy. Every rejected promise is an Error with `code` from src/errors.ts.

/** Opaque tagged native object. */
export interface NativeHandle {
  readonly __native: unique symbol;
}

/**
 * Token trees laid out flat, parents before children, the segments of a tree contiguous.
 * Segment s owns tokens[offsets[s]..offsets[s+1]); parents[s] < s, or -1 for the root of a tree.
 */
export interface ForestData {
  tokens: Int32Array;
  offsets: Int32Array;
  parents: Int32Array;
}

export interface NativeModelOptions {
  directory: string;
  device: 'auto' | 'cpu' | 'cuda';
  dtype: 'auto' | 'float32' | 'bfloat16';
  /** Set: random weights from config.json alone. */
  initSeed?: bigint;
  /** PEFT folder of a LoRA adapter that is merged into the weights once they are loaded. */
  adapter?: string;
  /** true: take the adapter also where it names other base weights. */
  allowOtherBase?: boolean;
  /** Bytes that keys and values of the rollout engine may take. */
  kvBudgetBytes: number;
  /** false: no prefix is shared, for measurements. */
  sharePrefixes: boolean;
  /** true: a float32 model's weights are read as bfloat16 in rollouts, with float32 arithmetic. */
  bf16Panels: boolean;
}

export interface ModelInfo {
  family: 'llama' | 'mistral' | 'qwen2' | 'qwen3';
  vocabSize: number;
  hiddenSize: number;
  numLayers: number;
  maxPositions: number;
  parameters: number;
  eosIds: number[];
  device: string;
  dtype: string;
}

/** See SamplingOptions in native/include/stepward/rollout.h. */
export interface NativeSampling {
  seed: bigint;
  /** 0: greedy. */
  temperature: number;
  topP: number;
  /** 0: off. */
  topK: number;
  /** Keeps the tokens at least this many times as probable as the likeliest; 0: off. */
  minP: number;
  minNewTokens: number;
  maxNewTokens: number;
  eosIds: Int32Array;
  /** UTF-8 texts that end a row; needs setTokenBytes. */
  stop: string[];
}

export interface NativeGenerateRequest extends NativeSampling {
  forest: ForestData;
  /** [N] segments to continue after. */
  nodes: Int32Array;
  samples: number;
  /** [N] */
  treeKeys: BigUint64Array;
  /** [N] */
  steps: Int32Array;
  firstCandidate: number;
}

/** Sampled rows end to end. */
export interface NativeCandidates {
  /** EOS and stop tokens included. */
  tokens: Int32Array;
  /** [rows + 1] */
  offsets: Int32Array;
  /** Per token: raw log-prob (temperature 1, nothing truncated). */
  logprobs: Float32Array;
  /** Per token: log-prob under the distribution it was drawn from. */
  samplingLogprobs: Float32Array;
  /** Per token: log of the mass that top-k, top-p and min-p kept. */
  logKept: Float32Array;
  /** [rows] 0 stop, 1 eos, 2 length. */
  finish: Uint8Array;
}

/** Row r = node * samples + sample. */
export interface NativeGenerateResult extends NativeCandidates {
  computedTokens: number;
  prefixFreeTokens: number;
}

export interface NativeForkRequest extends NativeSampling {
  /** Of each node. */
  samples: number;
  /** [nodes] Random stream of the tree; step and candidate number are part of it. */
  treeKeys: BigUint64Array;
  /** [nodes] */
  steps: Int32Array;
  firstCandidate: number;
}

/** Row r = node * samples + sample; it is node number firstNode + r. */
export interface NativeForkResult extends NativeCandidates {
  firstNode: number;
}

/** See RolloutCounters in native/include/stepward/rollout.h. */
export interface RolloutCounters {
  promptTokensComputed: number;
  promptTokensPrefixFree: number;
  sampledTokens: number;
  evictedTokens: number;
  lookups: number;
  hits: number;
  steps: number;
  decodeSteps: number;
  decodeRows: number;
  prefillSeconds: number;
  decodeSeconds: number;
  peakKvBytes: number;
  liveSegments: number;
  cachedSegments: number;
}

export interface NativeReadoutResult {
  /** [N, labels] natural log-probs. */
  logprobs: Float32Array;
  computedTokens: number;
  prefixFreeTokens: number;
}

export interface NativeScoreResult {
  /** [T] natural log-probs, NaN where a token was not scored. */
  logprobs: Float32Array;
  computedTokens: number;
}

export interface NativeLoraOptions {
  rank: number;
  alpha: number;
  targets: string[];
  seed: bigint;
  /** true: the scale is alpha / sqrt(rank) in place of alpha / rank. */
  rslora?: boolean;
}

export interface NativeTrainerOptions {
  optimizer: 'adamw' | 'sgd';
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  /** 0: no clipping. */
  maxGradNorm: number;
  lora?: NativeLoraOptions;
  /** PEFT folder to start from, in place of `lora`. */
  adapter?: string;
  allowOtherBase?: boolean;
  /** Patterns (* and ?) of the names of weights that are not trained. */
  freeze?: string[];
}

export type PreferenceLossKind = 'sigmoid' | 'ipo' | 'hinge' | 'robust' | 'sigmoid_norm' | 'simpo';

/** Completion c is the segments completionSegments[completionOffsets[c]..completionOffsets[c+1]) of the forest. */
export interface NativeCompletions {
  forest: ForestData;
  /** [C+1] */
  completionOffsets: Int32Array;
  completionSegments: Int32Array;
}

/** See PreferenceBatch in native/include/stepward/trainer.h. */
export interface NativePreferenceBatch extends NativeCompletions {
  chosen: Int32Array;
  rejected: Int32Array;
  weight: Float32Array;
  /** [C] log-probs; simpo does not read them. */
  reference: Float64Array;
  /** [P] in [0, 1]; absent: 1 for every pair. */
  mix?: Float32Array;
  loss: PreferenceLossKind;
  beta: number;
  labelSmoothing: number;
  /** Of simpo, at least 0. */
  gamma: number;
  sftWeight: number;
  pairNorm: number;
  tokenNorm: number;
}

export interface NativePreferenceResult {
  loss: number;
  sftLoss: number;
  /** [C] under the policy. */
  completionLogprobs: Float64Array;
  /** [P] weighted. */
  pairLoss: Float32Array;
  computedTokens: number;
  /** Where they were computed. */
  statistics?: TokenStatistics;
}

/** Sums over a micro-batch's pairs, of the tokens of their completions; see native/include/stepward/trainer.h. */
export interface TokenStatistics {
  /** Chosen tokens that no other was likelier than. */
  correct: number;
  /** Nats, tokens of both sides. */
  entropy: number;
  /** Mean logits over the vocabulary. */
  logitsChosen: number;
  logitsRejected: number;
  chosenTokens: number;
  rejectedTokens: number;
  /** Of both sides. */
  sideTokens: number;
}

export interface NativeCompletionValues {
  /** [C] natural log-probs under the policy, summed over the tokens of each completion. */
  logprobs: Float64Array;
  /** [C] */
  lengths: Int32Array;
  /** [3, C] of each one's tokens: those that no other was likelier than, and the sums of entropies and mean logits. */
  statistics?: Float64Array;
  computedTokens: number;
}

/** A micro-batch as far as memory goes. */
export interface MicroBatchShape {
  /** Of the packed forest. */
  tokens: number;
  /** Of its completions. */
  scoredTokens: number;
  /** Of the paths from its roots to all its leaves: a shared token counts once for each. */
  pathTokens: number;
  /** How many of those. */
  paths: number;
  /** Of all micro-batches of an optimiser step. */
  stepTokens: number;
  checkpointLayers: boolean;
}

/** Bytes of a training step at its peak, see TrainingMemory in native/include/stepward/trainer.h. */
export interface TrainingMemory {
  /** Taken before the trainer was made, the weights included. */
  base: number;
  gradients: number;
  optimizer: number;
  activations: number;
  workspace: number;
  total: number;
  /** Taken now. */
  resident: number;
  /** What could still be had beyond that; -1: unknown. */
  available: number;
}

export interface NativeSftBatch {
  forest: ForestData;
  segmentWeight: Float32Array;
  tokenNorm: number;
}

export interface NativeSftResult {
  loss: number;
  scoredTokens: number;
  computedTokens: number;
  /** Tokens count by their weights; all of them are chosen ones. */
  statistics?: TokenStatistics;
}

export interface SystemInfo {
  /** Version of the addon's build, equal to package.json's. */
  version: string;
  torch: string;
  /** Whether the addon holds CUDA kernels, and whether a CUDA device is usable now. */
  cudaBuilt: boolean;
  cudaAvailable: boolean;
  cudaDevices: string[];
  /** ATen's dispatch level: DEFAULT, AVX2, AVX512, ... */
  cpuCapability: string;
  /** Features read by cpuid that decide dtype: avx2, fma, avx512f, avx512_bf16, amx_bf16. */
  cpuFeatures: string[];
  threads: number;
  /** True where --dtype bfloat16 may be used on the CPU. */
  cpuBfloat16: boolean;
}

export interface NativeAddon {
  systemInfo(): SystemInfo;
  /** Threads of the one compute pool; call before the first model is loaded. */
  setThreads(threads: number): void;
  /** Handles created and not yet disposed, in this environment. */
  debugLiveHandles(): number;
  createCancelToken(): NativeHandle;
  cancel(token: NativeHandle): void;
  /**
   * Frees an engine or trainer after the jobs queued before, a cancel token at once. A model stays while a trainer of it
   * is live. Disposing twice is allowed.
   */
  dispose(handle: NativeHandle): Promise<void>;

  loadModel(options: NativeModelOptions, cancel: NativeHandle): Promise<NativeHandle>;
  modelInfo(engine: NativeHandle): ModelInfo;
  setTokenBytes(engine: NativeHandle, bytes: Uint8Array, offsets: Int32Array): Promise<void>;
  generate(
    engine: NativeHandle,
    request: NativeGenerateRequest,
    cancel: NativeHandle,
    onProgress?: (rowsDone: number) => void,
  ): Promise<NativeGenerateResult>;
  readout(
    engine: NativeHandle,
    forest: ForestData,
    nodes: Int32Array,
    labels: Int32Array,
    cancel: NativeHandle,
  ): Promise<NativeReadoutResult>;
  /** scored: [S] non-zero where a segment's tokens are wanted. */
  score(engine: NativeHandle, forest: ForestData, scored: Uint8Array, cancel: NativeHandle): Promise<NativeScoreResult>;
  saveModel(engine: NativeHandle, directory: string): Promise<void>;
  /** Hash (hex) of the weights, by names and values, and of the config fields that a forward pass reads. */
  weightsHash(engine: NativeHandle): Promise<string>;

  // The rollout engine's tree. Nodes are numbers; one that could not be made fails what uses it.
  /** The segments of a forest below `parent` (0: as roots); segment s is node number s + what is returned. */
  rolloutPlant(engine: NativeHandle, parent: number, forest: ForestData): number;
  rolloutRelease(engine: NativeHandle, nodes: Float64Array): void;
  /** Lower priority first. */
  rolloutFork(
    engine: NativeHandle,
    nodes: Float64Array,
    request: NativeForkRequest,
    priority: number,
    cancel: NativeHandle,
  ): Promise<NativeForkResult>;
  /** Log-probs of every token of the suffixes after the node, suffix i being tokens[offsets[i]..offsets[i+1]). */
  rolloutScore(
    engine: NativeHandle,
    node: number,
    tokens: Int32Array,
    offsets: Int32Array,
    priority: number,
    cancel: NativeHandle,
  ): Promise<Float32Array>;
  /** [nodes, labels] log-probs of each label as the next token after each node. */
  rolloutReadout(
    engine: NativeHandle,
    nodes: Float64Array,
    labels: Int32Array,
    priority: number,
    cancel: NativeHandle,
  ): Promise<Float32Array>;
  rolloutCounters(engine: NativeHandle): Promise<RolloutCounters>;

  /** An engine has at most one live trainer. */
  createTrainer(engine: NativeHandle, options: NativeTrainerOptions): Promise<NativeHandle>;
  accumulatePreference(
    trainer: NativeHandle,
    batch: NativePreferenceBatch,
    cancel: NativeHandle,
  ): Promise<NativePreferenceResult>;
  /** Keeps what backwardPreference needs, until it or the next job that trains. */
  forwardPreference(
    trainer: NativeHandle,
    completions: NativeCompletions,
    cancel: NativeHandle,
  ): Promise<NativeCompletionValues>;
  /** grad: [C] d loss / d log-prob of the last forwardPreference's completions; finite. */
  backwardPreference(trainer: NativeHandle, grad: Float64Array, cancel: NativeHandle): Promise<void>;
  accumulateSft(trainer: NativeHandle, batch: NativeSftBatch, cancel: NativeHandle): Promise<NativeSftResult>;
  /** [C] log-prob of each completion with adapters off, or with those that training started from. */
  referenceLogprobs(trainer: NativeHandle, completions: NativeCompletions, cancel: NativeHandle): Promise<Float64Array>;
  /** Clips, steps, clears; resolves to the gradient norm before clipping. */
  applyGradients(trainer: NativeHandle, learningRate: number): Promise<number>;
  trainingMemory(trainer: NativeHandle, shape: MicroBatchShape): Promise<TrainingMemory>;
  setCheckpointLayers(trainer: NativeHandle, on: boolean): Promise<void>;
  zeroGrad(trainer: NativeHandle): Promise<void>;
  saveAdapter(trainer: NativeHandle, directory: string, baseModel: string): Promise<void>;
  mergeAdapter(trainer: NativeHandle): Promise<void>;
  /** Moments, step counts and float32 masters as one safetensors file. */
  saveTrainerState(trainer: NativeHandle, file: string): Promise<void>;
  /** parameters: the model folder, or with LoRA the adapter folder, that was saved with the state. */
  loadTrainerState(trainer: NativeHandle, file: string, parameters: string): Promise<void>;
}
