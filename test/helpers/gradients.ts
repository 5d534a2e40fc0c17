// Gradients recovered from the weights before and after one SGD step, and their relative error against goldens.
// The signs are those of scripts/goldens/gradients.py.

import type { GradientSummary } from './goldens.js';
import type { StoredTensor } from './safetensors.js';

/**
 * A learning rate so large that w - lr * g is almost all gradient: (w0 - w1) / lr keeps every digit of a float32
 * gradient. A power of two, so that the product is exact.
 */
export const HUGE_RATE = 2 ** 20;

export type Gradient = Map<string, Float64Array>;

export function recoverGradient(
  before: Map<string, StoredTensor>,
  after: Map<string, StoredTensor>,
  rate: number,
): Gradient {
  return new Map(
    [...before].map(([name, { values }]) => {
      const stepped = after.get(name);
      if (!stepped) throw new Error(`${name} is missing from the saved model`);
      return [name, Float64Array.from(values, (value, i) => (value - stepped.values[i]!) / rate)];
    }),
  );
}

function sign(i: number, projection: number): number {
  let x = (Math.imul(i, 2654435761) + Math.imul(projection, 0x9e3779b9) + 0x85ebca6b) >>> 0;
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d) >>> 0;
  x ^= x >>> 15;
  x = Math.imul(x >>> 0, 0x846ca68b) >>> 0;
  x ^= x >>> 16;
  return x & 1 ? 1 : -1;
}

const norm = (values: Float64Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));

/** Relative error of each tensor, estimated from the projections: E[(d . r)^2] = |d|^2 for random signs r. */
export function summaryErrors(gradient: Gradient, golden: GradientSummary): Record<string, number> {
  return Object.fromEntries(
    Object.entries(golden).map(([name, { norm: size, projections }]) => {
      const values = gradient.get(name);
      if (!values) return [name, Number.POSITIVE_INFINITY];
      const squares = projections.map((expected, k) => {
        const projection = values.reduce((sum, value, i) => sum + value * sign(i, k), 0);
        return (projection - expected) ** 2;
      });
      const error = Math.sqrt(squares.reduce((a, b) => a + b, 0) / squares.length);
      return [name, Math.max(error, Math.abs(norm(values) - size)) / size];
    }),
  );
}

/** Relative error of each tensor of `exact`. */
export function tensorErrors(
  gradient: Map<string, ArrayLike<number>>,
  exact: Map<string, ArrayLike<number>>,
): Record<string, number> {
  return Object.fromEntries(
    [...exact].map(([name, expected]) => {
      const values = gradient.get(name);
      if (!values || values.length !== expected.length) return [name, Number.POSITIVE_INFINITY];
      const wanted = Float64Array.from(expected);
      return [name, norm(wanted.map((value, i) => values[i]! - value)) / norm(wanted)];
    }),
  );
}

/** The worst entry, by name, so that a failure says which tensor it is. */
export function worstEntry(errors: Record<string, number>): { name: string; error: number } {
  let found = { name: 'none', error: 0 };
  for (const [name, error] of Object.entries(errors)) if (!(error <= found.error)) found = { name, error };
  return found;
}
