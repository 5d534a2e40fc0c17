// Axes: a range that holds the values with round ends, its ticks, and where a value lies on it.

export interface Axis {
  low: number;
  high: number;
  ticks: number[];
  /** Decimals that tell the ticks apart. */
  digits: number;
}

export interface AxisOptions {
  /** The values can lie nowhere else, as shares in [0, 1]. */
  bounds?: readonly [number, number];
  /** Shorter ranges are widened, so that noise does not look like news; at least 2% of the values. */
  minSpan?: number;
  ticks?: number;
}

/** An axis over finite values. One value, or none, gets a range around it. */
export function axisOver(
  values: readonly number[],
  { bounds, minSpan = 0, ticks: wanted = 5 }: AxisOptions = {},
): Axis {
  let low = values.length === 0 ? 0 : values.reduce((a, b) => Math.min(a, b));
  let high = values.length === 0 ? 1 : values.reduce((a, b) => Math.max(a, b));
  const span = Math.max(high - low, minSpan, 0.02 * Math.max(Math.abs(low), Math.abs(high)));
  const wider = ((span > 0 ? span : 1) - (high - low)) / 2;
  low -= wider;
  high += wider;
  if (bounds) {
    // Shifted, not cut: the least span is kept at the ends too.
    const shift = Math.max(0, bounds[0] - low) - Math.max(0, high - bounds[1]);
    low = Math.max(bounds[0], low + shift);
    high = Math.min(bounds[1], high + shift);
  }
  const step = niceStep((high - low) / wanted);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const digits = Math.min(12, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toFixed(digits)));
  return { low: ticks[0] as number, high: ticks.at(-1) as number, ticks, digits };
}

/** The next 1, 2 or 5 times a power of ten. */
function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((nice) => nice * power >= rough * (1 - 1e-9)) ?? 10;
  return factor * power;
}

/** Whole numbers from `low` to `high`, about `wanted` of them, for an axis of optimiser steps. */
export function wholeTicks(low: number, high: number, wanted = 5): number[] {
  const step = Math.max(1, niceStep(Math.max(1, high - low) / wanted));
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.max(0, Math.floor(high / step) - first + 1) }, (_, i) => (first + i) * step);
}

/** Maps [low, high] to [from, to]; the middle where the range is a point. */
export function place(value: number, low: number, high: number, from: number, to: number): number {
  return high === low ? (from + to) / 2 : from + ((value - low) / (high - low)) * (to - from);
}
