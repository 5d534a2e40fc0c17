// Searches whose judge compares fewer than all pairs: how many questions are asked, what wins are, what is chosen.

import { describe, expect, it } from 'vitest';
import { judgeSchema, searchSchema, selectSchema } from '../../src/config/recipe.js';
import { tallyRounds } from '../../src/judge/tally.js';
import { searchSteps } from '../../src/loop/search.js';
import type { FakeOptions } from '../helpers/fake-engine.js';
import { EOS_MARK } from '../helpers/fake-engine.js';
import { right, type SumsOptions, sumsPolicy } from '../helpers/sums.js';

const PROBLEMS = Array.from({ length: 8 }, (_, i) => ({ id: `p${i}`, problem: `${i + 3}+${2 * i + 1}+${i}` }));

async function search(
  { search = {}, judge = {}, seed = 1 }: { search?: object; judge?: object; seed?: number },
  sums: SumsOptions & Partial<FakeOptions> = {},
  problems = PROBLEMS,
) {
  const { policy, engine } = await sumsPolicy(sums);
  const result = await searchSteps(policy, problems, {
    search: searchSchema.parse({ temperature: 1, ...search }),
    judge: judgeSchema.parse(judge),
    select: selectSchema.parse({}),
    seed,
  });
  expect(engine.tree.held).toBe(0);
  return { ...result, engine, policy };
}

/** One of many steps of different worth, then the end. The judge goes by the number. */
const numbers: FakeOptions['respond'] = (prompt, { random }) => {
  if (!prompt.startsWith('You are a fair judge')) return `Step: ${Math.floor(1000 * random())}${EOS_MARK}`;
  const [a = 0, b = 0] = [...prompt.matchAll(/Next Step\]\nStep: (\d+)/g)].map((match) => Number(match[1]));
  return a >= b ? '[[A]]' : '[[B]]';
};

describe.each(['swiss', 'knockout'] as const)('a search with pairing %s', (pairing) => {
  it('asks fewer questions, and chooses the best and rejects the worst', async () => {
    const { trees, counts } = await search({ search: { width: 16 }, judge: { pairing } }, { respond: numbers });
    let verdicts = 0;
    for (const { steps } of trees) {
      const [step] = steps;
      const values = step?.candidates.map(({ text }) => Number(text.slice(6))) ?? [];
      const [best, worst] = [values.indexOf(Math.max(...values)), values.indexOf(Math.min(...values))];
      if (pairing === 'knockout') expect([step?.chosen, step?.rejected]).toEqual([best, worst]);
      // After few swiss rounds some may be level with them, and sitting out costs half a win.
      const [most, fewest] = [step?.candidates[best]?.wins ?? 0, step?.candidates[worst]?.wins ?? 0];
      for (const { wins } of step?.candidates ?? []) {
        expect(wins).toBeLessThanOrEqual(most + 0.5 * (values.length % 2));
        expect(wins).toBeGreaterThanOrEqual(fewest - 0.5 * (values.length % 2));
      }
      expect(step?.candidates.map(({ wins }) => wins)).toEqual(
        tallyRounds(values.length, step?.verdicts ?? [], step?.rounds ?? 0),
      );
      expect(step?.rounds).toBeGreaterThanOrEqual(4);
      verdicts += step?.verdicts.length ?? 0;
    }
    expect(counts.verdicts).toBe(verdicts);
    expect(counts.both_orders).toBe(verdicts / 2);
    // Of all ordered pairs there would be 240.
    expect(verdicts / trees.length).toBeLessThanOrEqual(pairing === 'swiss' ? 64 : 44);
  });

  it('follows a sound judge as the comparison of all does', async () => {
    const { trees } = await search({ judge: { pairing } }, { slip: 0.5 });
    for (const { candidates, chosen, outcome } of trees.flatMap(({ steps }) => steps)) {
      const anyRight = candidates.some((candidate) => right(candidate.text) === 1);
      if (outcome === 'pair') expect(right(candidates[chosen]?.text ?? '')).toBe(Number(anyRight));
    }
  });

  it('gives a problem the same tree whatever else is in the batch', async () => {
    const config = { judge: { pairing, temperature: 1 } };
    const sums: SumsOptions = { slip: 0.6, judge: (_, { random }) => (random() < 0.5 ? '[[A]]' : '[[B]]') };
    const all = (await search(config, sums)).trees;
    expect((await search(config, sums, PROBLEMS.slice(3, 5))).trees).toEqual(all.slice(3, 5));
    expect((await search(config, sums)).trees).toEqual(all);
    expect((await search({ ...config, seed: 2 }, sums)).trees).not.toEqual(all);
  });

  it('rolls back where every comparison ties, however many met', async () => {
    const { trees } = await search({ judge: { pairing } }, { slip: 0.6, judge: () => '[[A]]' });
    const contests = trees.flatMap(({ steps, discarded }) => [...steps, ...discarded]);
    expect(contests.some(({ candidates }) => candidates.length % 2 === 1 && candidates.length > 1)).toBe(true);
    for (const { candidates } of contests) expect(new Set(candidates.map(({ wins }) => wins)).size).toBe(1);
    expect(trees.some(({ rollbacks }) => rollbacks > 0)).toBe(true);
  });

  it('lets the first of those that read the same meet the others for all', async () => {
    const respond: FakeOptions['respond'] = (prompt, { random }) => {
      if (prompt.startsWith('You are')) return random() < 0.5 ? '[[A]]' : '[[B]]';
      return `Step: ${['x', 'y', 'z'][Math.floor(3 * random())]}${random() < 0.5 ? EOS_MARK : '\n'}`;
    };
    const config = { search: { merge: false, width: 8, max_steps: 2 }, judge: { pairing, temperature: 1 } };
    const { trees, policy } = await search(config, { respond });
    for (const { candidates, verdicts } of trees.flatMap(({ steps, discarded }) => [...steps, ...discarded])) {
      const looks = candidates.map(({ ids }) => policy.prompts.shown(ids).join());
      for (const [i, look] of looks.entries()) expect(candidates[i]?.wins).toBe(candidates[looks.indexOf(look)]?.wins);
      const met = new Set(verdicts.flatMap(({ first, second }) => [first, second]));
      for (const i of met) expect(looks.indexOf(looks[i] as string)).toBe(i);
      expect(verdicts.some(({ first, second }) => looks[first] === looks[second])).toBe(false);
    }
  });

  it('leaves out what was cut off', async () => {
    const config = { search: { max_step_tokens: 14 }, judge: { pairing } };
    const { trees } = await search(config, { slip: 0.6 });
    const contests = trees.flatMap(({ steps, discarded }) => [...steps, ...discarded]);
    const cut = contests.flatMap(({ candidates }) => candidates.filter(({ finish }) => finish === 'length'));
    expect(cut.length).toBeGreaterThan(0);
    for (const { wins } of cut) expect(wins).toBe(0);
  });

  it('shows each pair in one order where orders are random', async () => {
    const { trees } = await search({ judge: { pairing, orders: 'random' } }, { slip: 0.6 });
    for (const { verdicts } of trees.flatMap(({ steps }) => steps)) {
      const pairs = verdicts.map(({ first, second }) => [first, second].sort().join());
      expect(new Set(pairs).size).toBe(pairs.length);
    }
  });
});
