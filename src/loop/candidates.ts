// Sampled rows to candidates: identical ones merged, each with its text and log-prob.

import { finishOf } from '../data/finish.js';
import type { NativeCandidates } from '../native/contract.js';
import type { TokenText } from '../prompts/token-text.js';
import type { Candidate } from './types.js';

/** Candidates in the order they were first sampled, and the row each of them was first sampled as. */
export function candidatesOf(
  result: NativeCandidates,
  text: TokenText,
  merge: boolean,
): { candidates: Candidate[]; rows: number[] } {
  const candidates: Candidate[] = [];
  const rows: number[] = [];
  const byIds = new Map<string, Candidate>();
  for (let row = 0; row < result.finish.length; row++) {
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
    rows.push(row);
  }
  return { candidates, rows };
}
