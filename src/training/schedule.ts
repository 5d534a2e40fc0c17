// Learning rate by optimiser step, as transformers' get_scheduler defines constant_with_warmup, linear and cosine.

import type { ScheduleKind } from './types.js';

/** Share of the peak learning rate at `step` (0 for the first) of `total`; without warm-up it is 1 at step 0. */
export function scheduleFactor(kind: ScheduleKind, step: number, total: number, warmupSteps: number): number {
  if (step < warmupSteps) return step / Math.max(1, warmupSteps);
  const progress = (step - warmupSteps) / Math.max(1, total - warmupSteps);
  switch (kind) {
    case 'constant':
      return 1;
    case 'linear':
      return Math.max(0, 1 - progress);
    case 'cosine':
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
  }
}

/** A ratio below 1 is a share of all steps, rounded up; anything else is a number of steps. */
export function warmupSteps(warmup: number, total: number): number {
  return warmup < 1 ? Math.ceil(warmup * total) : Math.floor(warmup);
}
