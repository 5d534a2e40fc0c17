// Options on their way to the addon: seeds, defaults, and leaving out what is undefined.

import { StepwardError } from '../errors.js';
import type { NativeSampling } from './contract.js';

/** Memory for keys and values of the rollout engine. */
export const DEFAULT_KV_BUDGET_MIB = 2048;

/** A non-negative safe integer as a bigint; `name` is for the message. Throws INVALID_ARGUMENT. */
export function toSeed(seed: number, name: string): bigint {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new StepwardError('INVALID_ARGUMENT', `${name}: expected an integer from 0 to 2^53 - 1, got ${seed}`);
  }
  return BigInt(seed);
}

/** Without the keys whose value is undefined, so that spreading it over defaults keeps them. */
export function defined<T extends object>(values: T): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>;
}

/** Sampling options with their defaults, and whatever else the request has. */
export function nativeSampling<R extends Partial<Omit<NativeSampling, 'seed'>> & { seed?: number }>(
  { seed = 0, ...rest }: R,
  eosIds: readonly number[],
) {
  return {
    temperature: 1,
    topP: 1,
    topK: 0,
    minP: 0,
    minNewTokens: 0,
    maxNewTokens: 256,
    eosIds: Int32Array.from(eosIds),
    stop: [],
    ...defined(rest),
    seed: toSeed(seed, 'seed'),
  };
}
