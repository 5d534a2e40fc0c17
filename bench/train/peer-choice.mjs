// TRL's configurations, and which of them counts: the fastest for speed, the one with the least memory beside it.

import { mib, table } from './report.mjs';

const MICRO_BATCHES = [1, 2, 4, 8];
/** With more padding a micro-batch only gets slower: once one is this much slower than the best, larger ones are left out. */
const SLOWER = 0.9;

const named = ({ micro_batch, gradient_checkpointing }) =>
  `micro-batch ${micro_batch}${gradient_checkpointing ? ', gradient checkpointing' : ''}`;

/**
 * Tries micro-batches, and checkpointing with the smallest of them (it saves memory and costs time), on the first two
 * optimiser steps of a job: the second is the first that has gradients, optimiser state and activations at once. Returns
 * { fastest, smallest, tried }.
 */
export function chooseTrl(sides, model, job) {
  const measure = (configuration) => {
    const { extra_bytes, pairs, seconds, versions } = sides.theirs(model, { ...job, max_steps: 2, ...configuration });
    return { configuration, pairs_per_second: pairs / seconds, extra_bytes, versions };
  };
  const best = (key, sign) => tried.toSorted((a, b) => sign * (a[key] - b[key]))[0];
  const tried = [];
  for (const micro_batch of MICRO_BATCHES.filter((size) => job.batch_size % size === 0)) {
    tried.push(measure({ micro_batch, gradient_checkpointing: false }));
    if (tried.at(-1).pairs_per_second < SLOWER * best('pairs_per_second', -1).pairs_per_second) break;
  }
  tried.push(measure({ micro_batch: 1, gradient_checkpointing: true }));
  console.log('  TRL, two optimiser steps:');
  table([
    ['', 'pairs/s', 'extra peak'],
    ...tried.map((one) => [named(one.configuration), one.pairs_per_second.toFixed(2), mib(one.extra_bytes)]),
  ]);
  return { fastest: best('pairs_per_second', -1), smallest: best('extra_bytes', 1), tried };
}
