// Packing: whatever the form of the records and however they are cut, the forest holds their paths and nothing else.

import { describe, expect, it } from 'vitest';
import { RadixForest } from '../../src/data/forest.js';
import type { ForestData } from '../../src/native/types.js';
import { randomNumbers } from '../../src/random.js';
import { packStep } from '../../src/training/packing/batches.js';
import { canonicalOrder } from '../../src/training/packing/canonical.js';
import { costOf, sharingCost, type TreeCost } from '../../src/training/packing/cost.js';
import { idsOf, itemOfExample, itemOfPair, lengthOf, type TrainingItem } from '../../src/training/packing/sequences.js';
import { itemsOf, packTrees } from '../../src/training/packing/trees.js';
import { flattenTrees, packPairs } from '../../src/training/pairs.js';
import type { PreferenceTree, SftExample } from '../../src/training/types.js';

const exact = costOf({ hiddenSize: 64, device: 'cpu', dtype: 'float32' });
const masked = costOf({ hiddenSize: 64, device: 'cuda:0', dtype: 'float32' });
const fewest = sharingCost('on', { hiddenSize: 64, device: 'cpu', dtype: 'float32' });

const tokensOf = ({ tokens, offsets }: ForestData, s: number): number[] => [
  ...tokens.subarray(offsets[s], offsets[s + 1]),
];

function pathTo(forest: ForestData, s: number): number[] {
  return s < 0 ? [] : [...pathTo(forest, forest.parents[s] as number), ...tokensOf(forest, s)];
}

/** A trajectory of `steps` steps over a small alphabet, so that siblings and prompts begin alike. */
function randomTree(random: () => number, prompt: number[], steps: number): PreferenceTree {
  const ids = (): number[] => Array.from({ length: 1 + Math.floor(random() * 6) }, () => Math.floor(random() * 3));
  return {
    promptIds: prompt,
    steps: Array.from({ length: steps }, () => {
      const chosenIds = ids();
      const differs = (other: number[]): boolean => other.join() !== chosenIds.join();
      const rejected = Array.from({ length: Math.floor(random() * 4) }, ids).filter(differs);
      return { chosenIds, rejected: rejected.map((own) => ({ ids: own, weight: random() })) };
    }),
  };
}

function randomItems(seed: number): TrainingItem[] {
  const random = randomNumbers(seed);
  const header = Array.from({ length: 20 }, () => Math.floor(random() * 3));
  const trees = Array.from({ length: 6 }, (_, t) =>
    randomTree(random, [...header.slice(0, Math.floor(random() * 20)), 7, t % 3], 1 + Math.floor(random() * 5)),
  );
  const pairs = flattenTrees(trees).pairs.map((pair) =>
    itemOfPair(
      pair.tree.promptIds.concat(...pair.tree.steps.slice(0, pair.step).map((step) => step.chosenIds)),
      pair.chosen,
      pair.rejected,
    ),
  );
  const examples = Array.from({ length: 8 }, (): SftExample => {
    const pieces = Array.from({ length: 1 + Math.floor(random() * 4) }, (_, i) => ({
      ids: Array.from({ length: Math.floor(random() * 5) + (i === 0 ? 1 : 0) }, () => Math.floor(random() * 3)),
      weight: Math.floor(random() * 3),
    }));
    return { segments: [{ ids: header.slice(0, 1 + Math.floor(random() * 19)), weight: 0 }, ...pieces] };
  });
  return [...pairs, ...examples.map(itemOfExample)];
}

const costs: [string, TreeCost | undefined][] = [
  ['auto, exact attention', exact],
  ['auto, masked attention', masked],
  ['on', fewest],
  ['off', undefined],
];

describe.each(costs)('a step packed with sharing %s', (name, cost) => {
  it.each([1, 2, 3, 4, 5, 6])('holds exactly the paths of its records, seed %i', (seed) => {
    const items = randomItems(seed);
    for (const budget of [1, 30, 60, 10_000]) {
      const batches = packStep(items, budget, cost);
      expect(batches.flatMap(itemsOf).sort((a, b) => a - b)).toEqual(items.map((_, i) => i));
      for (const batch of batches) {
        const { forest, placed, shares } = packTrees(items, batch);
        expect(forest.tokens.length).toBe(batch.tokens);
        const numbers = itemsOf(batch);
        // Over the budget only where a single item is.
        if (batch.tokens > budget) expect(numbers).toHaveLength(1);
        const used = new Set<number>();
        for (const [m, paths] of placed.entries()) {
          for (const [p, { context, pieces }] of paths.entries()) {
            const path = items[numbers[m] as number]?.paths[p] as TrainingItem['paths'][number];
            expect(pathTo(forest, context)).toEqual([...path.context]);
            expect(pieces.map((segments) => segments.flatMap((s) => tokensOf(forest, s)))).toEqual(
              path.pieces.map(({ ids }) => [...ids]),
            );
            // Each segment follows the one before it.
            for (const [i, s] of pieces.flat().entries())
              expect(forest.parents[s]).toBe(i === 0 ? context : pieces.flat()[i - 1]);
            for (let s = pieces.flat().at(-1) as number; s >= 0; s = forest.parents[s] as number) used.add(s);
          }
        }
        expect(used.size).toBe(forest.parents.length);
        const apart = numbers.reduce(
          (sum, i) => sum + (items[i] as TrainingItem).paths.reduce((total, path) => total + lengthOf(path), 0),
          0,
        );
        expect(shares).toBe(forest.tokens.length < apart);
        if (name === 'off') expect(shares).toBe(false);
      }
    }
  });

  it('gives the same forests whatever the order of the records and of the sides of a pair', () => {
    const items = randomItems(9);
    const forests = (own: TrainingItem[]): string[] =>
      packStep(own, 60, cost).map((batch) => {
        const { forest } = packTrees(own, batch);
        return JSON.stringify([[...forest.tokens], [...forest.offsets], [...forest.parents]]);
      });
    const turned = items.map(({ paths }) => ({ paths: [...paths].reverse() })).reverse();
    expect(forests(turned)).toEqual(forests(items));
  });
});

describe('sharing', () => {
  const header = Array.from({ length: 40 }, (_, i) => i);
  const pairAfter = (context: number[], own: number): TrainingItem => itemOfPair(context, [own, 1, 2], [own, 3]);

  it('joins prompts that only share a header, where there is enough to share', () => {
    const items = [5, 6].map((own) => pairAfter([...header, 100 + own], own));
    const [batch, ...rest] = packStep(items, 1000, exact);
    expect(rest).toEqual([]);
    expect(batch?.runs).toHaveLength(1);
    expect(batch?.tokens).toBe(40 + 2 * (1 + 4));
    const short = [5, 6].map((own) => pairAfter([1, 100 + own, ...header], own));
    expect(packStep(short, 1000, exact)[0]?.runs).toHaveLength(2);
    expect(packStep(short, 1000, fewest)[0]?.runs).toHaveLength(1);
  });

  it('does not join where a mask over the whole tree costs more than the header saves', () => {
    const long = (own: number): TrainingItem =>
      itemOfPair([...header, ...Array.from({ length: 4000 }, () => 100 + own)], [1], [2]);
    expect(packStep([long(0), long(1)], 100_000, masked)[0]?.runs).toHaveLength(2);
    expect(packStep([long(0), long(1)], 100_000, exact)[0]?.runs).toHaveLength(1);
  });

  it.each([
    ['cpu', 'float32', 10],
    ['cpu', 'bfloat16', 40_000],
    ['cuda:0', 'bfloat16', 10],
    ['cuda:0', 'float32', 40_000],
  ] as const)(
    'a branching tree on %s in %s is charged the pairs that its attention computes',
    (device, dtype, pairs) => {
      const cost = costOf({ hiddenSize: 64, device, dtype });
      const tree = { tokens: 200, segments: 3, attended: 10 };
      expect(cost({ ...tree, branches: true }) - cost({ ...tree, attended: 0, branches: false })).toBe(pairs);
      expect(cost({ ...tree, branches: false }) - cost({ ...tree, attended: 0, branches: false })).toBe(10);
    },
  );

  it.each([1, 2, 3, 4])('costs least of all cuts into consecutive runs within the budget, seed %i', (seed) => {
    const random = randomNumbers(seed);
    const prompts = Array.from({ length: 9 }, () => Array.from({ length: 12 }, () => Math.floor(random() * 1.3)));
    const items = prompts.map((prompt, i) => pairAfter([7, ...prompt, i], i));
    const budget = 60;
    const order = canonicalOrder(items);
    const price = (run: readonly number[]): number => {
      const radix = new RadixForest();
      for (const i of run) for (const path of (items[i] as TrainingItem).paths) radix.insert(idsOf(path), 0);
      const { tokens, segments, attended } = radix;
      return run.length > 1 && tokens > budget ? Infinity : exact({ tokens, segments, attended, branches: true });
    };
    let best = Infinity;
    for (let cuts = 0; cuts < 2 ** 8; cuts++) {
      const runs: number[][] = [[]];
      for (const [k, i] of order.entries()) {
        if (k > 0 && cuts & (1 << (k - 1))) runs.push([]);
        runs.at(-1)?.push(i);
      }
      best = Math.min(
        best,
        runs.reduce((sum, run) => sum + price(run), 0),
      );
    }
    const runs = packStep(items, budget, exact).flatMap((batch) => batch.runs);
    expect(runs.length).toBeGreaterThan(1);
    expect(runs.length).toBeLessThan(9);
    expect(runs.reduce((sum, run) => sum + price(run.items), 0)).toBeCloseTo(best, 6);
  });
});

describe('a tree over the budget', () => {
  const tree: PreferenceTree = {
    promptIds: Array.from({ length: 10 }, (_, i) => i),
    steps: Array.from({ length: 4 }, (_, k) => ({
      chosenIds: Array.from({ length: 5 }, () => 20 + k),
      rejected: [{ ids: [30 + k, 31 + k] }, { ids: [40 + k, 41 + k] }],
    })),
  };

  it('is cut between steps, which repeats their ancestors', () => {
    const { pairs } = flattenTrees([tree]);
    // Whole: 10 + 4 * (5 + 4) = 46 tokens.
    expect(packPairs(pairs, 46, exact)).toHaveLength(1);
    const batches = packPairs(pairs, 45, exact);
    expect(batches).toHaveLength(2);
    const steps = batches.map(({ members }) => [...new Set(members.map((pair) => pair.step))]);
    // The cheapest cut that fits is before the second step: it repeats 15 tokens. Earlier there is none, later repeats more.
    expect(steps).toEqual([[0], [1, 2, 3]]);
    expect(batches.map(({ packed }) => packed.forest.tokens.length)).toEqual([10 + 9, 15 + 3 * 9]);
  });

  it('is cut inside a step only where that step alone is over the budget', () => {
    const batches = packPairs(flattenTrees([tree]).pairs, 20, exact);
    const first = batches.filter(({ members }) => members.some((pair) => pair.step === 0));
    expect(first).toHaveLength(1);
    expect(first[0]?.members).toHaveLength(2);
    // A single pair of the last step has 25 + 5 + 2 tokens and cannot be cut.
    for (const { members, packed } of batches) if (packed.forest.tokens.length > 20) expect(members).toHaveLength(1);
  });
});

describe('packPairs', () => {
  it('numbers each completion once, and swapped sides are the same completions', () => {
    const record = (chosen: number[], rejected: number[]): PreferenceTree => ({
      promptIds: [1, 2, 3, 4, 5, 6, 7, 8],
      steps: [{ chosenIds: chosen, rejected: [{ ids: rejected }] }],
    });
    const sides: [number[], number[]][] = [
      [
        [10, 11, 12],
        [10, 13],
      ],
      [[10, 11, 12], [14]],
      [[15], [10, 13]],
    ];
    const [one] = packPairs(flattenTrees(sides.map(([a, b]) => record(a, b))).pairs, 1000, exact);
    const [other] = packPairs(flattenTrees(sides.map(([a, b]) => record(b, a))).pairs, 1000, exact);
    expect(one?.packed.completionOffsets).toHaveLength(5);
    expect(other?.packed.forest).toEqual(one?.packed.forest);
    expect(other?.packed.completionSegments).toEqual(one?.packed.completionSegments);
    expect(other?.packed.chosen).toEqual(one?.packed.rejected);
    expect(other?.packed.rejected).toEqual(one?.packed.chosen);
  });

  it('lays a trajectory out as one run of tokens', () => {
    const tree = randomTree(randomNumbers(1), [9, 9, 9], 0);
    tree.steps = Array.from({ length: 5 }, (_, k) => ({
      chosenIds: [10 + k, 1],
      rejected: [{ ids: [3, k] }, { ids: [60 + k, 4] }],
    }));
    const [batch] = packPairs(flattenTrees([tree]).pairs, 1000, exact);
    const forest = batch?.packed.forest as ForestData;
    // Of the last step either side may come first: neither has anything below it.
    const trunk = [tree.promptIds, ...tree.steps.slice(0, -1).map((step) => step.chosenIds)].flat();
    expect([...forest.tokens.subarray(0, trunk.length)]).toEqual(trunk);
  });
});

it('an example is context up to its first scored segment', () => {
  const segments = [
    { ids: [1, 2], weight: 0 },
    { ids: [3], weight: 0 },
    { ids: [4], weight: 1 },
    { ids: [5], weight: 0 },
  ];
  const [path] = itemOfExample({ segments }).paths;
  expect(path).toEqual({ context: [1, 2, 3], pieces: segments.slice(2) });
  expect(idsOf(path as TrainingItem['paths'][number])).toEqual([1, 2, 3, 4, 5]);
});
