// The search over a fake engine: what is sampled, judged, chosen, taken back, and what it does not depend on.

import { describe, expect, it } from 'vitest';
import { judgeSchema, searchSchema, selectSchema } from '../../src/config/recipe.js';
import { judgeContest } from '../../src/loop/judge.js';
import { type SearchOptions, searchSteps } from '../../src/loop/search.js';
import { emptyCounts } from '../../src/loop/types.js';
import { EOS } from '../helpers/fake-codec.js';
import type { FakeOptions } from '../helpers/fake-engine.js';
import { EOS_MARK } from '../helpers/fake-engine.js';
import { right, type SumsOptions, sumsPolicy } from '../helpers/sums.js';

type Overrides = { search?: object; judge?: object; select?: object; seed?: number; signal?: AbortSignal };

function optionsOf({ search = {}, judge = {}, select = {}, seed = 1, signal }: Overrides = {}): SearchOptions {
  return {
    search: searchSchema.parse({ temperature: 1, ...search }),
    judge: judgeSchema.parse(judge),
    select: selectSchema.parse(select),
    seed,
    ...(signal ? { signal } : {}),
  };
}

const PROBLEMS = Array.from({ length: 12 }, (_, i) => ({ id: `p${i}`, problem: `${i + 3}+${2 * i + 1}+${i}` }));

async function search(overrides: Overrides = {}, sums: SumsOptions & Partial<FakeOptions> = {}, problems = PROBLEMS) {
  const { policy, engine } = await sumsPolicy(sums);
  return { ...(await searchSteps(policy, problems, optionsOf(overrides))), engine, policy };
}

describe('step search', () => {
  it('follows a sound judge to right solutions where the samples slip', async () => {
    const { trees } = await search({}, { slip: 0.4 });
    for (const tree of trees) {
      expect(tree.finish).toBe('eos');
      for (const step of tree.steps) {
        const chosen = step.candidates[step.chosen];
        const anyRight = step.candidates.some((candidate) => right(candidate.text) === 1);
        if (step.outcome === 'pair') expect(right(chosen?.text ?? '')).toBe(Number(anyRight));
      }
    }
    const pairs = trees.flatMap(({ steps }) => steps.filter((step) => step.rejected !== null));
    expect(pairs.length).toBeGreaterThan(5);
    for (const { candidates, rejected } of pairs) expect(right(candidates[rejected as number]?.text ?? '')).toBe(0);
  });

  it('asks the engine twice a step, and lets go of every node', async () => {
    const { engine, trees } = await search({}, { slip: 0.5 });
    const steps = trees.reduce((sum, { steps, discarded }) => sum + steps.length + discarded.length, 0);
    const forks = engine.requests.filter(({ samples }) => samples === 6);
    expect(forks.length).toBe(steps);
    expect(engine.requests.length).toBeLessThanOrEqual(2 * forks.length);
    expect(engine.tree.held).toBe(0);
  });

  it('searches no more problems at once than it is told, earlier ones first', async () => {
    const open: number[] = [];
    const { policy } = await sumsPolicy({ slip: 0.5 });
    await searchSteps(policy, PROBLEMS, {
      ...optionsOf({ search: { open_trees: 3 } }),
      onProgress: (progress) => open.push(progress.open),
    });
    expect(Math.max(...open)).toBe(3);
    const one = await search({ search: { open_trees: 1 } }, { slip: 0.5 });
    const many = await search({ search: { open_trees: 50 } }, { slip: 0.5 });
    expect(one.trees).toEqual(many.trees);
    expect(one.counts).toEqual(many.counts);
  });

  it('merges identical candidates and counts them', async () => {
    const { trees } = await search({}, { slip: 0.4 });
    for (const { candidates } of trees.flatMap(({ steps }) => steps)) {
      expect(candidates.reduce((sum, { count }) => sum + count, 0)).toBe(6);
      expect(new Set(candidates.map(({ ids }) => ids.join())).size).toBe(candidates.length);
    }
  });

  it('asks about every ordered pair of distinct candidates, once', async () => {
    const { trees, counts } = await search({}, { slip: 0.6 });
    let asked = 0;
    for (const { candidates, verdicts } of [...trees.flatMap((tree) => [...tree.steps, ...tree.discarded])]) {
      expect(verdicts.length).toBe(candidates.length * (candidates.length - 1));
      expect(new Set(verdicts.map(({ first, second }) => `${first} ${second}`)).size).toBe(verdicts.length);
      asked += verdicts.length;
    }
    expect(counts.verdicts).toBe(asked);
    expect(asked).toBeGreaterThan(0);
  });

  it('gives a problem the same tree whatever else is in the batch', async () => {
    const all = (await search({}, { slip: 0.5 })).trees;
    const few = (await search({}, { slip: 0.5 }, PROBLEMS.slice(3, 5))).trees;
    expect(few).toEqual(all.slice(3, 5));
  });

  it('is the same for the same seed and another for another', async () => {
    const one = (await search({ seed: 1 }, { slip: 0.5 })).trees;
    expect((await search({ seed: 1 }, { slip: 0.5 })).trees).toEqual(one);
    expect((await search({ seed: 2 }, { slip: 0.5 })).trees).not.toEqual(one);
  });

  it('accepts a unanimous step without a pair and without judging', async () => {
    const { trees, counts } = await search({}, { slip: 0 });
    expect(counts.verdicts).toBe(0);
    for (const { steps } of trees) {
      expect(steps.map(({ outcome, rejected }) => [outcome, rejected])).toEqual(steps.map(() => ['unanimous', null]));
    }
  });

  it('takes the previous step back with its pair where the judge sees no difference, and draws afresh', async () => {
    // The judge has a view of first steps only: every second step has no spread.
    const judge: SumsOptions['judge'] = ({ a, b }) =>
      a.startsWith('Step 1') ? (right(a) >= right(b) ? '[[A]]' : 'x [[B]]') : 'x [[A]]';
    const { trees, engine } = await search({ select: { max_rollbacks: 2 } }, { slip: 0.5, judge });
    const rolled = trees.filter(({ rollbacks }) => rollbacks > 0);
    expect(rolled.length).toBeGreaterThan(0);
    for (const tree of rolled) {
      expect(tree.rollbacks).toBeLessThanOrEqual(2);
      const noSpread = tree.discarded.filter(({ reason }) => reason === 'no_spread');
      expect(noSpread.length).toBe(tree.rollbacks);
      for (const { candidates } of noSpread) expect(new Set(candidates.map(({ wins }) => wins)).size).toBe(1);
    }
    // A step that is tried again has a random stream of its own.
    const seen = new Set<string>();
    for (const { samples, treeKeys, steps } of engine.requests.filter((request) => request.samples === 6)) {
      expect(samples).toBe(6);
      for (const [i, key] of (treeKeys as BigUint64Array).entries()) {
        const stream = `${key} ${(steps as Int32Array)[i]}`;
        expect(seen.has(stream)).toBe(false);
        seen.add(stream);
      }
    }
  });

  it('after the cap goes on with the first of the best, without a pair', async () => {
    const { trees } = await search(
      { select: { max_rollbacks: 1, tie_chosen: 'first' } },
      { slip: 0.5, judge: () => 'same [[A]]' },
    );
    for (const tree of trees) {
      expect(tree.rollbacks).toBeLessThanOrEqual(1);
      for (const step of tree.steps) {
        expect(step.rejected).toBeNull();
        if (step.outcome === 'cap') expect(step.chosen).toBe(0);
      }
    }
    expect(trees.flatMap(({ steps }) => steps).some(({ outcome }) => outcome === 'cap')).toBe(true);
  });

  it('gives half a win each where the orders disagree, and none for verdicts it cannot read', async () => {
    const first = await search({ select: { max_rollbacks: 0 } }, { slip: 0.5, judge: () => 'first! [[A]]' });
    for (const { candidates } of first.trees.flatMap(({ steps }) => steps)) {
      for (const { wins } of candidates) expect(wins).toBe((candidates.length - 1) / 2);
    }
    expect(first.counts.flips).toBe(first.counts.both_orders);
    expect(first.counts.first_wins).toBe(first.counts.decided);
    const mute = await search({ select: { max_rollbacks: 0 } }, { slip: 0.5, judge: () => 'hm' });
    expect(mute.counts.parse_failures).toBe(mute.counts.verdicts);
    expect(mute.counts.verdicts).toBeGreaterThan(0);
    for (const { candidates } of mute.trees.flatMap(({ steps }) => steps)) {
      for (const { wins } of candidates) expect(wins).toBe(0);
    }
  });

  it('neither judges nor chooses a step that was cut off', async () => {
    const respond: FakeOptions['respond'] = (prompt, { random }) =>
      prompt.startsWith('You are') ? 'x [[B]]' : random() < 0.5 ? 'a very long step that never ends' : `ok${EOS_MARK}`;
    const { trees } = await search({ search: { max_step_tokens: 8 } }, { respond });
    for (const { steps, discarded, finish } of trees) {
      for (const { candidates, chosen, verdicts } of steps) {
        expect(candidates[chosen]?.finish).toBe('eos');
        expect(verdicts).toEqual([]);
      }
      if (steps.length === 0) expect([finish, discarded[0]?.reason]).toEqual(['length', 'cut_off']);
    }
    expect(trees.some(({ steps }) => steps.length > 0)).toBe(true);
  });

  it('ends at max_steps, and at the last position of the model', async () => {
    const { trees } = await search({ search: { max_steps: 1 } }, { slip: 0 });
    for (const { finish, steps } of trees) expect([finish, steps.length]).toEqual(['max_steps', 1]);
    const short = await search({}, { slip: 0, maxPositions: 20 });
    for (const { finish, steps } of short.trees) expect([finish, steps.length]).toEqual(['length', 0]);
    expect(short.engine.requests.length).toBe(0);
  });

  it('carries EOS only in the step that ended the solution', async () => {
    const { trees } = await search({}, { slip: 0.4 });
    for (const { steps } of trees) {
      for (const [i, { candidates, chosen }] of steps.entries()) {
        const ids = candidates[chosen]?.ids ?? [];
        expect(ids.includes(EOS)).toBe(i === steps.length - 1);
      }
    }
  });

  it('reads label probabilities in readout mode', async () => {
    const labels = (prompt: string) => {
      const shown = (name: string) =>
        new RegExp(`Assistant ${name}'s Next Step\\]\\n([\\s\\S]*?)\\n\\[The End`).exec(prompt)?.[1] ?? '';
      expect(prompt.endsWith('[[')).toBe(true);
      return right(shown('A')) > right(shown('B'))
        ? [-0.1, -3]
        : right(shown('A')) < right(shown('B'))
          ? [-3, -0.1]
          : [-1, -1];
    };
    const { trees, engine, counts } = await search({ judge: { mode: 'readout' } }, { slip: 0.5, labels });
    expect(engine.readouts).toBeGreaterThan(0);
    expect(counts.judge_generated_tokens).toBe(0);
    for (const { verdicts, candidates } of trees.flatMap(({ steps }) => steps)) {
      for (const { first, second, winner, pFirst } of verdicts) {
        const better = right(candidates[first]?.text ?? '') - right(candidates[second]?.text ?? '');
        expect(winner).toBe(better > 0 ? 'first' : better < 0 ? 'second' : 'tie');
        expect(pFirst).toBeCloseTo(
          better > 0 ? 1 / (1 + Math.exp(-2.9)) : better < 0 ? 1 / (1 + Math.exp(2.9)) : 0.5,
          5,
        );
      }
    }
  });

  it('asks each pair once with random orders', async () => {
    const { trees } = await search({ judge: { orders: 'random' } }, { slip: 0.6 });
    let swapped = 0;
    for (const { candidates, verdicts } of trees.flatMap(({ steps }) => steps)) {
      expect(verdicts.length).toBe((candidates.length * (candidates.length - 1)) / 2);
      swapped += verdicts.filter(({ first, second }) => first > second).length;
    }
    expect(swapped).toBeGreaterThan(0);
  });

  it.each(['both', 'random'] as const)('never parts candidates that look the same, orders %s', async (orders) => {
    // Unmerged, and with a step that some samples end by EOS: equal once that is off. The judge answers at random.
    const respond: FakeOptions['respond'] = (prompt, { random }) => {
      if (prompt.startsWith('You are')) return random() < 0.5 ? '[[A]]' : '[[B]]';
      const end = random() < 0.5 ? EOS_MARK : '\n';
      return `Step: ${['x', 'y', 'z'][Math.floor(3 * random())]}${end}`;
    };
    const { trees, policy, counts, engine } = await search(
      { search: { merge: false, width: 8, max_steps: 2 }, judge: { orders, temperature: 1 } },
      { respond },
    );
    let twins = 0;
    for (const { candidates, verdicts } of trees.flatMap((tree) => [...tree.steps, ...tree.discarded])) {
      const looks = candidates.map(({ ids }) => policy.prompts.shown(ids).join());
      for (const [i, look] of looks.entries()) {
        const j = looks.indexOf(look);
        if (j === i) continue;
        twins++;
        expect(candidates[i]?.wins).toBe(candidates[j]?.wins);
      }
      const answers = new Map<string, string>();
      for (const { first, second, winner } of verdicts) {
        const question = `${looks[first]} ${looks[second]}`;
        expect(winner === 'tie').toBe(looks[first] === looks[second]);
        expect(answers.get(question) ?? winner).toBe(winner);
        answers.set(question, winner);
      }
    }
    expect(twins).toBeGreaterThan(20);
    expect(counts.verdicts).toBeGreaterThan(0);
    // Each question is asked once: at most 3 looks, so 6 ordered pairs of them.
    const asked = engine.requests.filter(({ samples }) => samples === 1);
    for (const { treeKeys } of asked) expect(treeKeys?.length).toBeLessThanOrEqual(6);
  });

  it('draws a comparison the same whatever stands beside it', async () => {
    const ask = async (steps: string[]) => {
      const { policy } = await sumsPolicy({ judge: (_steps, { random }) => (random() < 0.5 ? '[[A]]' : '[[B]]') });
      const candidates = steps.map((text) => ({
        ids: policy.prompts.step(text, false),
        text,
        logprob: -1,
        count: 1,
        wins: 0,
        finish: 'stop' as const,
      }));
      const contest = { id: 'p', problem: '1+1', steps: [], visit: 0, candidates, eligible: [...candidates.keys()] };
      const options = { judge: judgeSchema.parse({ orders: 'random', temperature: 1 }), seed: 3 };
      const { verdicts } = await judgeContest(policy, contest, options, emptyCounts());
      return new Map(
        verdicts.map(({ first, second, winner }) => [
          [steps[first], steps[second]].sort().join(),
          winner === 'first' ? steps[first] : steps[second],
        ]),
      );
    };
    const names = Array.from({ length: 8 }, (_, i) => `step ${i}`);
    const all = await ask(names);
    const some = await ask(names.filter((_, i) => i % 2 === 1).reverse());
    expect(some.size).toBe(6);
    for (const [pair, winner] of some) expect(all.get(pair)).toBe(winner);
  });

  it('stops when it is cancelled', async () => {
    const controller = new AbortController();
    controller.abort();
    await expect(search({ signal: controller.signal })).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});
