// Sampled rows to candidates: identical ones merged, each with its text and log-prob.

import { finishOf } from '../data/finish.js';
import type { GenerateResult } from '../native/types.js';
import type { TokenText } from '../prompts/token-text.js';
import type { Candidate } from './types.js';

/** Candidates of one node in the order they were first sampled. `rows`: the node's rows in the result. */
export function candidatesOf(
  result: GenerateResult,
  rows: { first: number; count: number },
  text: TokenText,
  merge: boolean,
): Candidate[] {
  const candidates: Candidate[] = [];
  const byIds = new Map<string, Candidate>();
  for (let row = rows.first; row < rows.first + rows.count; row++) {
    const [start, end] = [result.offsets[row] as number, result.offsets[row + 1] as number];
    const ids = Array.from(result.tokens.subarray(start, end));
    const finish = finishOf(result.finish[row]);
    const key = `${finish} ${ids.join()}`;
    const known = merge ? byIds.get(key) : undefined;
    if (known) {
      known.count++;
      continue;
    }
    let logprob = 0;
    for (let i = start; i < end; i++) logprob += result.logprobs[i] as number;
    const candidate: Candidate = { ids, text: text.decode(ids), logprob, count: 1, wins: 0, finish };
    byIds.set(key, candidate);
    candidates.push(candidate);
  }
  return candidates;
}
