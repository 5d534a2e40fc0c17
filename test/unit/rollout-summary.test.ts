// What summaries say of the engine's work, from two looks at its counters.

import { describe, expect, it } from 'vitest';
import type { RolloutCounters } from '../../src/native/contract.js';
import { rolloutSummary } from '../../src/native/rollout-summary.js';

const NONE: RolloutCounters = {
  promptTokensComputed: 0,
  promptTokensPrefixFree: 0,
  sampledTokens: 0,
  evictedTokens: 0,
  lookups: 0,
  hits: 0,
  steps: 0,
  decodeSteps: 0,
  decodeRows: 0,
  prefillSeconds: 0,
  decodeSeconds: 0,
  peakKvBytes: 0,
  liveSegments: 0,
  cachedSegments: 0,
};

describe('the rollout of a summary', () => {
  it('is what was done between the two', () => {
    const before = { ...NONE, promptTokensComputed: 100, lookups: 4, hits: 4, decodeRows: 7, decodeSteps: 7 };
    const after = {
      ...before,
      promptTokensComputed: 400,
      promptTokensPrefixFree: 900,
      sampledTokens: 70,
      evictedTokens: 32,
      lookups: 12,
      hits: 6,
      decodeRows: 67,
      decodeSteps: 22,
      prefillSeconds: 0.5,
      decodeSeconds: 3,
      peakKvBytes: 4096,
    };
    expect(rolloutSummary(before, after)).toEqual({
      computed_tokens: 300,
      prefix_free_tokens: 900,
      cache_hit_rate: 0.25,
      rows_per_decode_step: 4,
      prefill_tokens_per_second: 600,
      decode_tokens_per_second: 20,
      evicted_tokens: 32,
      peak_kv_bytes: 4096,
    });
  });

  it('has null where there is nothing to divide by', () => {
    expect(rolloutSummary(NONE, NONE)).toEqual({
      computed_tokens: 0,
      prefix_free_tokens: 0,
      cache_hit_rate: null,
      rows_per_decode_step: null,
      prefill_tokens_per_second: null,
      decode_tokens_per_second: null,
      evicted_tokens: 0,
      peak_kv_bytes: 0,
    });
  });
});
