// Whether the model given as `--reference` can be the reference of another one. Ids are numbers to it: a model of another
// tokenizer takes them all the same and gives log-probs of other texts.

import type { RecordLimits } from '../data/records.js';
import { StepwardError } from '../errors.js';
import type { PreferenceTree } from '../training/types.js';

/**
 * Throws INVALID_ARGUMENT where vocabulary or tokens differ from the trained model's, CONTEXT_TOO_LONG where a path of the
 * data has no room. Tokens are compared where both folders have a tokenizer: a reference needs none.
 */
export function checkReference(model: RecordLimits, reference: RecordLimits, trees: readonly PreferenceTree[]): void {
  const { directory } = reference;
  if (reference.vocabSize !== model.vocabSize) {
    throw new StepwardError(
      'INVALID_ARGUMENT',
      `--reference: expected the vocabulary of ${model.directory}, ${model.vocabSize} tokens, and ${directory} has ${reference.vocabSize}`,
    );
  }
  const difference = model.codec && reference.codec && differing(model.codec.vocab(), reference.codec.vocab());
  if (difference) {
    throw new StepwardError(
      'INVALID_ARGUMENT',
      `--reference: expected the tokenizer of ${model.directory}, where the id ${difference.id} is ${difference.own}, ` +
        `and in ${directory} it is ${difference.other}`,
    );
  }
  const longest = longestPath(trees);
  if (longest > reference.maxPositions) {
    throw new StepwardError(
      'CONTEXT_TOO_LONG',
      `--reference: expected ${longest} positions, of the longest path of the data, and ${directory} has ${reference.maxPositions}`,
    );
  }
}

/** The lowest id that is not the same token in both; undefined: there is none. */
function differing(
  own: Record<string, number>,
  other: Record<string, number>,
): { id: number; own: string; other: string } | undefined {
  const [tokens, others] = [byId(own), byId(other)];
  for (let id = 0; id < Math.max(tokens.length, others.length); id++) {
    if (tokens[id] !== others[id]) return { id, own: shown(tokens[id]), other: shown(others[id]) };
  }
  return undefined;
}

function byId(vocab: Record<string, number>): string[] {
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(vocab)) tokens[id] = token;
  return tokens;
}

const shown = (token: string | undefined): string => (token === undefined ? 'no token' : JSON.stringify(token));

/** Tokens from a prompt's first to a candidate's last. */
function longestPath(trees: readonly PreferenceTree[]): number {
  let longest = 0;
  for (const { promptIds, steps } of trees) {
    let context = promptIds.length;
    for (const { chosenIds, rejected } of steps) {
      for (const { length } of [chosenIds, ...rejected.map(({ ids }) => ids)])
        longest = Math.max(longest, context + length);
      context += chosenIds.length;
    }
  }
  return longest;
}
