// What the rollout engine did between two looks at its counters, as the commands' summaries say it. Rates are times: they
// go into no file of a run, which has the same bytes again.

import type { RolloutCounters } from './contract.js';

export interface RolloutSummary {
  /** Prompt tokens run through the model; sampled ones apart. */
  computed_tokens: number;
  /** What they would be without shared prefixes: the whole path of every row. */
  prefix_free_tokens: number;
  /** Segments that were found by their tokens with all of them computed, of those that were asked for. */
  cache_hit_rate: number | null;
  /** Samples that went on together. */
  rows_per_decode_step: number | null;
  prefill_tokens_per_second: number | null;
  /** Of samples that go on: a sample's first token comes with its prompt. */
  decode_tokens_per_second: number | null;
  /** Tokens whose keys and values were given up for want of room; what is needed of them again is computed again. */
  evicted_tokens: number;
  /** Most bytes of keys and values at once, since the engine was loaded. */
  peak_kv_bytes: number;
}

export function rolloutSummary(before: RolloutCounters, after: RolloutCounters): RolloutSummary {
  const gained = (key: keyof RolloutCounters) => after[key] - before[key];
  const ratio = (key: keyof RolloutCounters, per: keyof RolloutCounters) =>
    gained(per) > 0 ? gained(key) / gained(per) : null;
  return {
    computed_tokens: gained('promptTokensComputed'),
    prefix_free_tokens: gained('promptTokensPrefixFree'),
    cache_hit_rate: ratio('hits', 'lookups'),
    rows_per_decode_step: ratio('decodeRows', 'decodeSteps'),
    prefill_tokens_per_second: ratio('promptTokensComputed', 'prefillSeconds'),
    decode_tokens_per_second: ratio('decodeRows', 'decodeSeconds'),
    evicted_tokens: gained('evictedTokens'),
    peak_kv_bytes: after.peakKvBytes,
  };
}
