// Cuts the items of an optimiser step into trees, and the trees into micro-batches by a budget of tokens. Which micro-batch
// an item is in changes nothing but rounding: every share of the loss is divided by the numbers of the whole step.

import { RadixForest } from '../../data/forest.js';
import { canonicalOrder, sharedPrefix } from './canonical.js';
import type { TreeCost } from './cost.js';
import { idsOf, lengthOf, type TrainingItem } from './sequences.js';

/** Items of one tree; or, not `shared`, each path of each item a chain of its own. */
export interface Run {
  items: number[];
  shared: boolean;
  tokens: number;
}

/** Runs that are computed in one pass. */
export interface MicroBatch {
  runs: Run[];
  tokens: number;
}

/**
 * Micro-batches over all of `items`, of at most `budget` tokens where single items allow. `cost`: decides what is shared;
 * undefined: nothing is. A tree that is too large is cut between steps, which repeats their ancestors, and inside a step
 * only where that alone is over the budget.
 */
export function packStep(items: readonly TrainingItem[], budget: number, cost: TreeCost | undefined): MicroBatch[] {
  const order = canonicalOrder(items);
  if (!cost) {
    const apart = order.map((item) => chains(items, [item]));
    return bestFit(apart, budget);
  }
  const paths = items.map((item) => item.paths.map(idsOf));
  const units = unitsOf(items, paths, order, budget);
  return bestFit(cheapestRuns(items, paths, units, budget, cost), budget);
}

/** [item][path] token ids from the root to the end. */
type PathIds = readonly (readonly number[][])[];

/** Items with equal contexts, in canonical order: what is not cut apart unless it alone is over the budget. */
function unitsOf(items: readonly TrainingItem[], paths: PathIds, order: readonly number[], budget: number): number[][] {
  const units: number[][] = [];
  let radix = new RadixForest();
  let context: readonly number[] | undefined;
  for (const item of order) {
    const own = items[item]?.paths[0]?.context ?? [];
    const last = units.at(-1);
    const same = context !== undefined && own.length === context.length && sharedPrefix(own, context) === own.length;
    if (last && same) {
      insertPaths(radix, paths, item);
      if (radix.tokens <= budget) {
        last.push(item);
        continue;
      }
    }
    units.push([item]);
    context = own;
    radix = new RadixForest();
    insertPaths(radix, paths, item);
  }
  return units;
}

/**
 * Cuts the units into consecutive runs of least total cost, each a tree within the budget: best[j] is the least cost of
 * the first j units. Units that begin with different tokens have nothing to share.
 */
function cheapestRuns(
  items: readonly TrainingItem[],
  paths: PathIds,
  units: readonly number[][],
  budget: number,
  cost: TreeCost,
): Run[] {
  const firstToken = (unit: number): number | undefined => paths[units[unit]?.[0] as number]?.[0]?.[0];
  const best = [0, ...units.map(() => Number.POSITIVE_INFINITY)];
  const last: { from: number; run: Run }[] = [];
  for (let from = 0; from < units.length; from++) {
    const radix = new RadixForest();
    for (let to = from; to < units.length; to++) {
      if (to > from && firstToken(to) !== firstToken(from)) break;
      for (const item of units[to] as number[]) insertPaths(radix, paths, item);
      if (to > from && radix.tokens > budget) break;
      const { tokens, segments, attended } = radix;
      const members = units.slice(from, to + 1).flat();
      let price = cost({ tokens, segments, attended, branches: segments > 1 });
      let run: Run = { items: members, shared: true, tokens };
      const apart = to === from ? chains(items, members) : undefined;
      if (apart) {
        const chained = chainsCost(items, apart.items, cost);
        if (chained < price) [price, run] = [chained, apart];
      }
      const total = (best[from] as number) + price;
      if (total < (best[to + 1] as number)) {
        best[to + 1] = total;
        last[to + 1] = { from, run };
      }
    }
  }
  const runs: Run[] = [];
  for (let end = units.length; end > 0; end = (last[end] as { from: number }).from) {
    runs.unshift((last[end] as { run: Run }).run);
  }
  return runs;
}

function chains(items: readonly TrainingItem[], members: number[]): Run {
  const lengths = members.flatMap((item) => (items[item] as TrainingItem).paths.map(lengthOf));
  return { items: members, shared: false, tokens: lengths.reduce((sum, length) => sum + length, 0) };
}

function chainsCost(items: readonly TrainingItem[], members: number[], cost: TreeCost): number {
  let sum = 0;
  for (const item of members) {
    for (const path of (items[item] as TrainingItem).paths) {
      const tokens = lengthOf(path);
      // A cut between context and piece leaves a chain a chain.
      sum += cost({ tokens, segments: 1, attended: (tokens * (tokens + 1)) / 2, branches: false });
    }
  }
  return sum;
}

function insertPaths(radix: RadixForest, paths: PathIds, item: number): void {
  for (const ids of paths[item] as readonly number[][]) radix.insert(ids, 0);
}

/** Best fit, the largest first: each run goes where the least room is left over, or opens a micro-batch. */
function bestFit(runs: Run[], budget: number): MicroBatch[] {
  const order = runs.map((_, r) => r).sort((a, b) => (runs[b] as Run).tokens - (runs[a] as Run).tokens || a - b);
  const bins: { members: number[]; tokens: number }[] = [];
  for (const r of order) {
    const { tokens } = runs[r] as Run;
    let found: (typeof bins)[number] | undefined;
    for (const bin of bins) {
      if (bin.tokens + tokens <= budget && (!found || bin.tokens > found.tokens)) found = bin;
    }
    if (!found) {
      found = { members: [], tokens: 0 };
      bins.push(found);
    }
    found.members.push(r);
    found.tokens += tokens;
  }
  // In canonical order again, within and between micro-batches.
  for (const { members } of bins) members.sort((a, b) => a - b);
  bins.sort((a, b) => (a.members[0] as number) - (b.members[0] as number));
  return bins.map(({ members, tokens }) => ({ runs: members.map((r) => runs[r] as Run), tokens }));
}
