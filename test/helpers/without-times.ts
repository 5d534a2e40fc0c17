// Lines of train.jsonl without what differs between two runs of one training: speeds and memory.

import type { StepMetrics } from '../../src/training/types.js';

export function withoutTimes(metrics: StepMetrics): StepMetrics {
  return Object.fromEntries(
    Object.entries(metrics).filter(([name]) => !name.endsWith('_per_second') && name !== 'peak_bytes'),
  );
}
