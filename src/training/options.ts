// Defaults and checks of training options, the same for the commands and the loop.

import { StepwardError } from '../errors.js';
import { defined } from '../native/options.js';
import type { PreferenceLossKind, TrainerOptions } from '../native/types.js';
import type { PairLoss } from './losses/pair-loss.js';
import { CHECKPOINTS } from './memory.js';
import type { OptimizerOptions, PreferenceOptions } from './types.js';

type OptionalKeys = 'maxSteps' | 'memoryLimit' | 'lora' | 'adapter' | 'allowOtherBase' | 'freeze';
export type ResolvedOptimizer = Required<Omit<OptimizerOptions, OptionalKeys>> & Pick<OptimizerOptions, OptionalKeys>;
export type ResolvedPreference = ResolvedOptimizer &
  Required<Pick<PreferenceOptions, 'beta' | 'loss' | 'labelSmoothing' | 'gamma' | 'mix' | 'sftWeight'>>;

export const LORA_TARGETS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
const LORA_NAMES = [...LORA_TARGETS, 'lm_head', 'all-linear'];
export const LOSSES = ['sigmoid', 'ipo', 'hinge', 'robust', 'sigmoid_norm', 'simpo'] as const;
/** Its log-probs are per token, so its beta is larger than DPO's: the low end of what SimPO's authors use, and TRL's gamma. */
export const SIMPO = { beta: 2, gamma: 0.5 } as const;
export const OPTIMIZERS = ['adamw', 'sgd'] as const;
export const SHARING = ['auto', 'on', 'off'] as const;
export const SCHEDULES = ['constant', 'linear', 'cosine'] as const;

/** Throws INVALID_ARGUMENT naming the option. */
export function resolveOptimizer(given: OptimizerOptions, defaultLearningRate: number): ResolvedOptimizer {
  const optimizer = given.optimizer ?? 'adamw';
  const resolved: ResolvedOptimizer = {
    optimizer: oneOf('optimizer', optimizer, OPTIMIZERS),
    learningRate: atLeast('learning rate', given.learningRate ?? defaultLearningRate, 0),
    schedule: oneOf('schedule', given.schedule ?? 'linear', SCHEDULES),
    warmup: atLeast('warmup', given.warmup ?? 0, 0),
    batchSize: integer('batch size', given.batchSize ?? 32, 1),
    epochs: above('epochs', given.epochs ?? 1, 0),
    maxSteps: given.maxSteps === undefined ? undefined : integer('max steps', given.maxSteps, 1),
    maxGradNorm: atLeast('max grad norm', given.maxGradNorm ?? (optimizer === 'sgd' ? 0 : 1), 0),
    weightDecay: atLeast('weight decay', given.weightDecay ?? 0, 0),
    beta1: fraction('beta1', given.beta1 ?? 0.9),
    beta2: fraction('beta2', given.beta2 ?? 0.999),
    eps: above('eps', given.eps ?? 1e-8, 0),
    microBatchTokens:
      given.microBatchTokens === undefined || given.microBatchTokens === 'auto'
        ? 'auto'
        : integer('micro-batch tokens', given.microBatchTokens, 1),
    checkpointLayers: oneOf('checkpoint layers', given.checkpointLayers ?? 'auto', CHECKPOINTS),
    memoryLimit: given.memoryLimit === undefined ? undefined : above('memory limit', given.memoryLimit, 0),
    sharing: oneOf('sharing', given.sharing ?? 'auto', SHARING),
    seed: integer('seed', given.seed ?? 0, 0),
    shuffle: given.shuffle ?? true,
    lora: given.lora,
    adapter: given.adapter,
    allowOtherBase: given.allowOtherBase,
    freeze: given.freeze,
  };
  if (resolved.lora) {
    integer('lora rank', resolved.lora.rank, 1);
    for (const target of resolved.lora.targets ?? []) {
      // layers.0.self_attn.q_proj is one q_proj: whether there is such a layer, the model says.
      if (!LORA_NAMES.includes(target.slice(target.lastIndexOf('.') + 1))) oneOf('lora targets', target, LORA_NAMES);
    }
    if (resolved.adapter !== undefined) throw invalid('adapter', 'no lora options beside it', 'both');
  }
  if (resolved.freeze && (resolved.lora || resolved.adapter !== undefined)) {
    throw invalid('freeze', 'a training of the weights', 'one of LoRA adapters, where all weights are frozen');
  }
  return resolved;
}

/** Throws INVALID_ARGUMENT naming the option. */
export function resolvePreference(given: PreferenceOptions): ResolvedPreference {
  const loss = lossOf(given.loss ?? 'sigmoid');
  const labelSmoothing = given.labelSmoothing ?? 0;
  // At 0.5 both orders of a pair count the same: nothing would be learnt, and robust divides by 1 - 2 * smoothing.
  if (!(labelSmoothing >= 0 && labelSmoothing < 0.5)) {
    throw invalid('label smoothing', 'a number from 0 to below 0.5', labelSmoothing);
  }
  const gamma = atLeast('gamma', given.gamma ?? (loss === 'simpo' ? SIMPO.gamma : 0), 0);
  if (gamma !== 0 && loss !== 'simpo') {
    throw invalid('gamma', 'the loss simpo beside it', typeof loss === 'string' ? loss : 'a loss of your own');
  }
  const mix = given.mix ?? 1;
  if (!(mix >= 0 && mix <= 1)) throw invalid('mix', 'a number from 0 to 1', mix);
  return {
    ...resolveOptimizer(given, 1e-6),
    beta: above('beta', given.beta ?? (loss === 'simpo' ? SIMPO.beta : 0.1), 0),
    loss,
    labelSmoothing,
    gamma,
    mix,
    sftWeight: atLeast('sft weight', given.sftWeight ?? 0, 0),
  };
}

export function trainerOptions(options: ResolvedOptimizer): TrainerOptions {
  const { optimizer, beta1, beta2, eps, weightDecay, maxGradNorm, lora, adapter, allowOtherBase, freeze, seed } =
    options;
  return {
    optimizer,
    beta1,
    beta2,
    eps,
    weightDecay,
    maxGradNorm,
    ...(lora && {
      lora: {
        rank: lora.rank,
        alpha: lora.alpha ?? 2 * lora.rank,
        targets: lora.targets ?? LORA_TARGETS,
        seed: lora.seed ?? seed,
      },
    }),
    ...defined({ adapter, allowOtherBase, freeze }),
  };
}

function lossOf(loss: PreferenceLossKind | PairLoss): PreferenceLossKind | PairLoss {
  return typeof loss === 'function' ? loss : oneOf('loss', loss, LOSSES);
}

function invalid(name: string, expected: string, got: unknown): StepwardError {
  return new StepwardError('INVALID_ARGUMENT', `${name}: expected ${expected}, got ${String(got)}`);
}

function oneOf<T extends string>(name: string, value: T, allowed: readonly T[]): T {
  if (!allowed.includes(value)) throw invalid(name, `one of ${allowed.join(', ')}`, value);
  return value;
}

function atLeast(name: string, value: number, low: number): number {
  if (!Number.isFinite(value) || value < low) throw invalid(name, `a number of at least ${low}`, value);
  return value;
}

function above(name: string, value: number, low: number): number {
  if (!Number.isFinite(value) || value <= low) throw invalid(name, `a number above ${low}`, value);
  return value;
}

function fraction(name: string, value: number): number {
  if (!(value >= 0 && value < 1)) throw invalid(name, 'a number from 0 to below 1', value);
  return value;
}

function integer(name: string, value: number, low: number): number {
  if (!Number.isSafeInteger(value) || value < low) throw invalid(name, `a whole number of at least ${low}`, value);
  return value;
}
