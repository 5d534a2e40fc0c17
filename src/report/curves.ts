// Training metrics as series over all updates of a run, one after the other, thinned where there are more optimiser
// steps than a chart can show.

import type { StepMetrics } from '../training/types.js';
import type { Point } from './chart.js';
import type { ModelData } from './data.js';
import { isNumber } from './format.js';

/** Points of a line, over all stretches together. */
const MOST_POINTS = 600;

export interface Curves {
  /** Where each model's update begins, in optimiser steps of all before it. */
  stretches: { x: number; name: string }[];
  /** Optimiser steps that one point is the mean of. */
  thinned: number;
  points(key: keyof StepMetrics & string): Point[];
}

/** Of the models that have a training of the asked kind: preference updates have margins, SFT has none. */
export function curvesOf(models: readonly ModelData[], kind: 'sft' | 'preference'): Curves {
  const isPreference = (model: ModelData) => model.curve.some((step) => 'rewards/margins' in step);
  const trained = models.filter((model) => model.curve.length > 0 && isPreference(model) === (kind === 'preference'));
  const steps = trained.reduce((sum, { curve }) => sum + curve.length, 0);
  const thinned = Math.ceil(steps / MOST_POINTS);
  let from = 0;
  const starts = trained.map(({ name, curve }) => {
    const start = { x: from + 0.5, name, curve };
    from += curve.length;
    return start;
  });
  return {
    stretches: starts.map(({ x, name }) => ({ x, name })),
    thinned,
    points: (key) =>
      starts.flatMap(({ x, curve }, i) => {
        const line = means(curve, key, x + 0.5, thinned);
        return i === 0 ? line : [{ x, y: null }, ...line];
      }),
  };
}

/** Means of `size` optimiser steps each; a mean without any value is null. */
function means(curve: readonly StepMetrics[], key: string, start: number, size: number): Point[] {
  const points: Point[] = [];
  for (let at = 0; at < curve.length; at += size) {
    const part = curve.slice(at, at + size);
    const values = part.map((step) => step[key]).filter(isNumber);
    const y = values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;
    points.push({ x: start + at + (part.length - 1) / 2, y });
  }
  return points;
}
