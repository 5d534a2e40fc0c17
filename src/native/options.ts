// Options on their way to the addon: seeds, and leaving out what is undefined.

import { StepwardError } from '../errors.js';

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
