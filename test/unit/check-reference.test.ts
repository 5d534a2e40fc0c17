// Which models `dpo --reference` takes beside a model and its data.

import { describe, expect, it } from 'vitest';
import { checkReference } from '../../src/commands/check-reference.js';
import type { RecordLimits } from '../../src/data/records.js';
import type { PreferenceTree } from '../../src/training/types.js';
import { CharacterCodec } from '../helpers/fake-codec.js';

const own: RecordLimits = { directory: 'own', codec: new CharacterCodec(), vocabSize: 130, maxPositions: 64 };
const trees: PreferenceTree[] = [
  { promptIds: [4, 5], steps: [{ chosenIds: [6], rejected: [{ ids: [7] }] }] },
  {
    promptIds: [4],
    steps: [
      { chosenIds: [6, 7], rejected: [{ ids: [7] }, { ids: [8, 9, 10] }] },
      { chosenIds: [8], rejected: [{ ids: [9, 9, 9, 9] }] },
    ],
  },
];

function tokens(change: (vocab: Record<string, number>) => void): CharacterCodec {
  const codec = new CharacterCodec();
  const vocab = codec.vocab();
  change(vocab);
  codec.vocab = () => vocab;
  return codec;
}

describe('a reference', () => {
  it.each<[string, Partial<RecordLimits>]>([
    ['the same', {}],
    ['without a tokenizer', { codec: undefined }],
    ['whose positions just hold the longest path', { maxPositions: 7 }],
  ])('is taken: %s', (_name, changes) => {
    checkReference(own, { ...own, directory: 'other', ...changes }, trees);
    checkReference({ ...own, codec: undefined }, { ...own, directory: 'other', ...changes }, trees);
  });

  it.each<[Partial<RecordLimits>, string, string]>([
    [{ vocabSize: 131 }, 'INVALID_ARGUMENT', 'the vocabulary of own, 130 tokens, and other has 131'],
    [
      {
        codec: tokens((vocab) => {
          [vocab.a, vocab.b] = [98, 97];
        }),
      },
      'INVALID_ARGUMENT',
      'the tokenizer of own, where the id 97 is "a", and in other it is "b"',
    ],
    [
      {
        codec: tokens((vocab) => {
          vocab['<pad>'] = 129;
        }),
      },
      'INVALID_ARGUMENT',
      'the tokenizer of own, where the id 129 is no token, and in other it is "<pad>"',
    ],
    [{ maxPositions: 6 }, 'CONTEXT_TOO_LONG', '7 positions, of the longest path of the data, and other has 6'],
  ])('is refused: %j', (changes, code, message) => {
    expect(() => checkReference(own, { ...own, directory: 'other', ...changes }, trees)).toThrow(
      expect.objectContaining({ code, message: `--reference: expected ${message}` }),
    );
  });
});
