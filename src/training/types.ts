// What training takes and gives, shared by preference pairs and SFT. No code.

import type { EngineLike, PreferenceLossKind } from '../native/types.js';
import type { TrainingCheckpoints } from './checkpoint.js';
import type { PairLoss } from './losses/pair-loss.js';
import type { CheckpointChoice } from './memory.js';

/** A trajectory with its judged steps. The chosen steps are the trunk; a step without rejected ones is only trunk. */
export interface PreferenceTree {
  id?: string;
  promptIds: number[];
  /** How many steps of the trajectory stand in the prompt. null: not known, for pairs that stand alone. Default 0. */
  firstStep?: number | null;
  steps: PreferenceStep[];
}

export interface PreferenceStep {
  chosenIds: number[];
  /**
   * weight: default 1. mix, in [0, 1], default PreferenceOptions.mix: the pair's loss is mix times its loss plus 1 - mix
   * times its loss the other way round.
   */
  rejected: { ids: number[]; weight?: number; mix?: number }[];
}

/** One branch: segments end to end, each token counted `weight` times in the loss; weight 0 is context. */
export interface SftExample {
  segments: { ids: number[]; weight: number }[];
}

export type ScheduleKind = 'constant' | 'linear' | 'cosine';

export interface OptimizerOptions {
  /** Default adamw. */
  optimizer?: 'adamw' | 'sgd';
  /** Peak learning rate. Default 1e-6 (preference), 1e-5 (SFT). */
  learningRate?: number;
  /** Default linear. */
  schedule?: ScheduleKind;
  /** Below 1: share of the steps, rounded up; else steps. Default 0. */
  warmup?: number;
  /** Pairs or examples per optimiser step. Default 32. */
  batchSize?: number;
  /** Passes over the data, may be fractional. Default 1. */
  epochs?: number;
  /** Stop after this many optimiser steps, repeating the data where needed; overrides epochs. */
  maxSteps?: number;
  /** Global norm, 0: no clipping. Default 1 (adamw), 0 (sgd). */
  maxGradNorm?: number;
  /** Default 0. */
  weightDecay?: number;
  /** Defaults 0.9, 0.999, 1e-8. */
  beta1?: number;
  beta2?: number;
  eps?: number;
  /**
   * Tokens per forward pass where the data allows. Default auto: as many as the free memory has room for, up to 2048 on the
   * CPU and 16384 on a GPU. A number makes the rounding independent of the memory that happens to be free.
   */
  microBatchTokens?: number | 'auto';
  /** Whether layers keep only their input for the backward pass and run again there. Default auto: where memory needs it. */
  checkpointLayers?: CheckpointChoice;
  /** Bytes that the process (or the GPU) may take. Default: what is free. More is refused before anything is computed. */
  memoryLimit?: number;
  /**
   * What is computed once for several records. auto: prefixes whose sharing pays by an estimate; on: every common prefix;
   * off: none, each completion runs with a context of its own, for measurements. Default auto.
   */
  sharing?: 'auto' | 'on' | 'off';
  /** Order of the data. Default 0. */
  seed?: number;
  /** Default true. */
  shuffle?: boolean;
  /** Set: adapters are trained in place of the weights. */
  lora?: LoraOptions;
  /** Folder of a LoRA adapter in PEFT's files to go on training; then no `lora`. The reference is the model with it. */
  adapter?: string;
  /** Default false. true: take the adapter also where it names other base weights. */
  allowOtherBase?: boolean;
  /** Patterns of Hugging Face weight names (* and ?) that are not trained: model.embed_tokens.*, model.layers.0.*. */
  freeze?: string[];
}

export interface LoraOptions {
  rank: number;
  /** Default 2 * rank. */
  alpha?: number;
  /**
   * q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head where it is not the embedding, all-linear (the
   * seven), or longer ends of a layer's name: layers.0.self_attn.q_proj. Default the seven.
   */
  targets?: string[];
  /** Default the training seed. */
  seed?: number;
}

export interface PreferenceOptions extends OptimizerOptions {
  /** Above 0. Default 0.1, with simpo 2. Of a loss of your own only `rewards/*` depend on it. */
  beta?: number;
  /** Default sigmoid. A function is a loss of your own: see losses/pair-loss.ts. */
  loss?: PreferenceLossKind | PairLoss;
  /** Of sigmoid, robust and simpo, from 0 to below 0.5. Default 0. */
  labelSmoothing?: number;
  /** Of simpo: the margin that chosen is to be ahead by, at least 0. Default 0.5; other losses take none. */
  gamma?: number;
  /** In [0, 1], for pairs without a mix of their own. Default 1. */
  mix?: number;
  /** Weight of the chosen steps' mean negative log-prob in the loss. Default 0. */
  sftWeight?: number;
}

export type SftOptions = OptimizerOptions;

export type StepMetrics = Record<string, number>;

export interface TrainingHooks {
  signal?: AbortSignal;
  /** Before anything is computed. */
  onPlan?(totalSteps: number): void;
  /** While reference log-probs are computed, in optimiser steps of the first epoch. */
  onReference?(done: number, total: number): void;
  /** After each optimiser step. A throw ends the training: the weights keep the steps taken. */
  onStep?(metrics: StepMetrics): void;
  /** Model that gives the reference log-probs. Default: the engine itself before training. */
  reference?: EngineLike;
  /** Saves the training as it goes on, and takes it up again. */
  checkpoints?: TrainingCheckpoints;
  /** Adapters trained with `lora` or from `adapter` are handed out before they are merged: write them here. */
  adapterDirectory?: string;
  /** Base model's name in the adapter's config. */
  baseModel?: string;
  /** Reference log-probs kept on disk; without it they are computed anew in every training. */
  referenceCache?: ReferenceCacheOptions;
  /** A number that is not finite stopped the training. Says what was kept and where, for the error's message. */
  onFailure?(failure: TrainingFailure): Promise<string>;
}

export interface ReferenceCacheOptions {
  /** Made where it is missing. */
  directory: string;
  /** All that decides the last bits of a log-prob beside the weights and the tokens: build, device, threads. */
  machine: string;
}

/** What is left of a training that a number that is not finite stopped. The weights are those of the last whole step. */
export interface TrainingFailure {
  /** Optimiser step that failed, from 1. */
  step: number;
  /** Micro-batch of that step, from 1; absent where the sum over all of them failed. */
  microBatch?: number;
  error: Error;
  /** The micro-batch, or all of the step, as records that the command takes again. */
  records: object[];
  /** Per record, what is known of it: where it comes from, reference log-probs. */
  values: object[];
  /** Writes the adapter as it is and then merges it into the model. Only where one is trained. */
  takeAdapter?(directory: string): Promise<void>;
}

/** What a training has done so far. */
export type TrainingProgress = Pick<TrainingSummary, 'steps' | 'tokens' | 'computedTokens' | 'finalLoss'>;

export interface TrainingSummary {
  steps: number;
  /** Distinct pairs or examples in the data. */
  pairs?: number;
  examples?: number;
  /** Tokens that training without prefix sharing would have computed. */
  tokens: number;
  /** Tokens computed, reference log-probs left out. */
  computedTokens: number;
  /** Tokens computed for reference log-probs. */
  referenceTokens: number;
  /** Tokens whose reference log-probs were found on disk. */
  cachedReferenceTokens: number;
  /** Largest difference between log-probs computed packed and alone, nats over a completion; absent: nothing was shared. */
  packingCheck?: number;
  seconds: number;
  /** Loss of the last step; NaN when no step was taken. */
  finalLoss: number;
  /** Of the process (or the GPU) at its peak, by formula before the training. */
  estimatedBytes?: number;
}

/** A TrainingSummary as files and --json summaries hold it. */
export interface TrainingRecord {
  steps: number;
  pairs?: number;
  examples?: number;
  tokens: number;
  computed_tokens: number;
  /** Only with pairs. */
  reference_tokens?: number;
  /** Only where some were found on disk. */
  cached_reference_tokens?: number;
  /** Only where anything was shared. */
  packing_check?: number;
  final_loss: number;
  seconds: number;
}
