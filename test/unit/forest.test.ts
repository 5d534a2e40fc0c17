import { describe, expect, it } from 'vitest';
import { ForestBuilder, PrefixForest, RadixForest } from '../../src/data/forest.js';
import type { ForestData } from '../../src/native/contract.js';

const segment = (forest: ForestData, s: number): number[] => [
  ...forest.tokens.subarray(forest.offsets[s], forest.offsets[s + 1]),
];

/** Tokens from the root to the end of a segment. */
function pathTokens(forest: ForestData, s: number): number[] {
  const parent = forest.parents[s] as number;
  return [...(parent < 0 ? [] : pathTokens(forest, parent)), ...segment(forest, s)];
}

function expectWellFormed(forest: ForestData): void {
  const roots: number[] = [];
  for (const [s, parent] of forest.parents.entries()) {
    expect(parent).toBeLessThan(s);
    // Contiguous trees: a segment's tree is the one begun last.
    roots.push(parent < 0 ? s : (roots[parent] as number));
    if (s > 0) expect(roots[s]).toBeGreaterThanOrEqual(roots[s - 1] as number);
  }
  expect(forest.offsets[0]).toBe(0);
  expect(forest.offsets.at(-1)).toBe(forest.tokens.length);
}

describe('ForestBuilder', () => {
  it('makes the segments of interleaved trees contiguous', () => {
    const builder = new ForestBuilder();
    const a = builder.root([1, 2]);
    const b = builder.root([9]);
    const a1 = builder.child(a, [3]);
    const b1 = builder.child(b, [8, 7]);
    const a2 = builder.child(a1, []);
    const { forest, segments } = builder.build();
    expectWellFormed(forest);
    expect([a, a1, a2, b, b1].map((handle) => segments[handle])).toEqual([0, 1, 2, 3, 4]);
    expect(pathTokens(forest, segments[a2] as number)).toEqual([1, 2, 3]);
    expect(pathTokens(forest, segments[b1] as number)).toEqual([9, 8, 7]);
    expect([...forest.parents]).toEqual([-1, 0, 1, -1, 3]);
  });

  it('refuses a parent that is not there', () => {
    const builder = new ForestBuilder();
    builder.root([1]);
    expect(() => builder.child(1, [2])).toThrow('parent: expected a handle below 1, got 1');
  });
});

describe('PrefixForest', () => {
  it('stores a common prefix once and splits it only where sequences part', () => {
    const prefixes = new PrefixForest();
    const long = prefixes.add([1, 2, 3, 4]);
    const other = prefixes.add([1, 2, 5]);
    const inner = prefixes.add([1, 2, 3]);
    const same = prefixes.add([1, 2, 3, 4]);
    const apart = prefixes.add([7]);
    const { forest, nodes } = prefixes.build();
    expectWellFormed(forest);
    expect(forest.tokens).toHaveLength(6);
    expect(prefixes.tokens).toBe(6);
    expect(nodes[same]).toBe(nodes[long]);
    expect([long, other, inner, apart].map((handle) => pathTokens(forest, nodes[handle] as number))).toEqual([
      [1, 2, 3, 4],
      [1, 2, 5],
      [1, 2, 3],
      [7],
    ]);
  });

  it('keeps trees with different keys apart', () => {
    const prefixes = new PrefixForest();
    prefixes.add([1, 2], 'a');
    prefixes.add([1, 2], 'b');
    const { forest } = prefixes.build();
    expect([...forest.parents]).toEqual([-1, -1]);
    expect([...forest.tokens]).toEqual([1, 2, 1, 2]);
  });

  it('refuses an empty sequence', () => {
    expect(() => new PrefixForest().add([])).toThrow('at least one token');
  });

  it('gives every sequence its own tokens back, for many random sequences', () => {
    let state = 1;
    const random = (below: number): number => {
      state = (state * 48271) % 2147483647;
      return state % below;
    };
    const sequences = Array.from({ length: 300 }, () => Array.from({ length: 1 + random(8) }, () => random(3)));
    const prefixes = new PrefixForest();
    const handles = sequences.map((ids, i) => prefixes.add(ids, i % 3));
    const { forest, nodes } = prefixes.build();
    expectWellFormed(forest);
    for (const [i, ids] of sequences.entries())
      expect(pathTokens(forest, nodes[handles[i] as number] as number)).toEqual(ids);
    const distinct = new Set(sequences.flatMap((ids, i) => ids.map((_, k) => `${i % 3}:${ids.slice(0, k + 1)}`)));
    expect(forest.tokens).toHaveLength(distinct.size);
  });
});

describe('RadixForest', () => {
  it('keeps an earlier end valid when a later sequence splits its segment', () => {
    const radix = new RadixForest();
    const prompt = radix.insert([1], 0);
    const end = radix.insert([2, 3, 4], 0, prompt);
    const shorter = radix.insert([2, 3], 0, prompt);
    const { forest, indexOf } = radix.build();
    expect(RadixForest.path(end, prompt).map((node) => segment(forest, indexOf.get(node) as number))).toEqual([
      [2, 3],
      [4],
    ]);
    expect(RadixForest.path(shorter, prompt)).toHaveLength(1);
    expect(RadixForest.path(prompt, prompt)).toEqual([]);
  });
});
