import { describe, expect, it } from 'vitest';
import type { Completions } from '../../src/native/types.js';
import { joinParts, treeParts, wholePart } from '../../src/training/reference-parts.js';

/** Two trees: a prompt of 2, its steps of 1 and 2 and one after the second; a chain of 3 and 2. */
const batch: Completions = {
  forest: {
    tokens: Int32Array.from({ length: 12 }, (_, i) => 10 + i),
    offsets: Int32Array.of(0, 2, 3, 5, 7, 10, 12),
    parents: Int32Array.of(-1, 0, 0, 2, -1, 4),
  },
  completionOffsets: Int32Array.of(0, 1, 2, 4, 4),
  // The second tree's is the second of them; the third has two segments; the last has none.
  completionSegments: Int32Array.of(1, 5, 2, 3),
};

describe('treeParts', () => {
  it('cuts trees out as they would stand alone', () => {
    const [first, second, ...more] = treeParts(batch);
    expect(more).toEqual([]);
    expect(first).toEqual({
      packed: {
        forest: {
          tokens: Int32Array.of(10, 11, 12, 13, 14, 15, 16),
          offsets: Int32Array.of(0, 2, 3, 5, 7),
          parents: Int32Array.of(-1, 0, 0, 2),
        },
        completionOffsets: Int32Array.of(0, 1, 3, 3),
        completionSegments: Int32Array.of(1, 2, 3),
      },
      completions: [0, 2, 3],
    });
    expect(second).toEqual({
      packed: {
        forest: {
          tokens: Int32Array.of(17, 18, 19, 20, 21),
          offsets: Int32Array.of(0, 3, 5),
          parents: Int32Array.of(-1, 0),
        },
        completionOffsets: Int32Array.of(0, 1),
        completionSegments: Int32Array.of(1),
      },
      completions: [1],
    });
  });

  it('is undone by joinParts, but for the order of completions', () => {
    const joined = joinParts(treeParts(batch));
    expect(joined.forest).toEqual(batch.forest);
    expect(joined.completionOffsets).toEqual(Int32Array.of(0, 1, 3, 3, 4));
    expect(joined.completionSegments).toEqual(Int32Array.of(1, 2, 3, 5));
    expect(joinParts([wholePart(batch)])).toEqual(batch);
    expect(joinParts([]).forest.tokens).toHaveLength(0);
  });
});
