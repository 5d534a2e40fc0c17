// Reading a verdict out of what the judge wrote, and the probability it gave the first candidate.

import type { Winner } from '../loop/types.js';

export interface VerdictTexts {
  a: string;
  b: string;
}

export interface ReadVerdict {
  winner: Winner;
  /** Where the verdict starts in the text; -1 where there is none. */
  at: number;
}

/**
 * The first verdict in the text: `a` names the candidate shown first, `b` the second. What follows a verdict does not
 * count: generation is cut there, and where the stop missed it the rest is not part of the judgment.
 */
export function parseVerdict(text: string, verdicts: VerdictTexts): ReadVerdict {
  const a = text.indexOf(verdicts.a);
  const b = text.indexOf(verdicts.b);
  if (a < 0 && b < 0) return { winner: 'invalid', at: -1 };
  // Where one verdict's text starts with the other's, the longer one was meant.
  const first = a === b ? verdicts.a.length > verdicts.b.length : b < 0 || (a >= 0 && a < b);
  return first ? { winner: 'first', at: a } : { winner: 'second', at: b };
}

/**
 * Probability of the first label: exp of the raw log-prob of the token in which the label was written, or one minus
 * that where the second was; the other label is given all the rest, so its share is an upper bound. `pieces` are the
 * bytes of each token, `logprobs` theirs. Null without a verdict, or where one verdict's text starts with the other's.
 */
export function readPFirst(
  verdict: ReadVerdict,
  text: string,
  verdicts: VerdictTexts,
  pieces: readonly Uint8Array[],
  logprobs: ArrayLike<number>,
): number | null {
  if (verdict.at < 0) return null;
  let shared = 0;
  while (shared < verdicts.a.length && verdicts.a[shared] === verdicts.b[shared]) shared++;
  if (shared === verdicts.a.length || shared === verdicts.b.length) return null;
  const label = Buffer.byteLength(text.slice(0, verdict.at + shared));
  let end = 0;
  for (const [i, piece] of pieces.entries()) {
    end += piece.length;
    if (end <= label) continue;
    const p = Math.exp(logprobs[i] as number);
    return verdict.winner === 'first' ? p : 1 - p;
  }
  return null;
}

/** Two label log-probs as a verdict: the likelier label wins, equal ones tie. */
export function readoutVerdict(first: number, second: number): { winner: Winner; pFirst: number } {
  if (first === second) return { winner: 'tie', pFirst: 0.5 };
  return { winner: first > second ? 'first' : 'second', pFirst: 1 / (1 + Math.exp(second - first)) };
}
