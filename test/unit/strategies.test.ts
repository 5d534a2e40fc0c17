// Beam and best-first search over a fake engine: which solutions go on, what is recorded, what it does not depend on.

import { describe, expect, it } from 'vitest';
import { judgeSchema, searchSchema, selectSchema } from '../../src/config/recipe.js';
import { mostWins } from '../../src/judge/tally.js';
import { type SearchOptions, searchSteps } from '../../src/loop/search.js';
import type { SearchTree } from '../../src/loop/types.js';
import { EOS_MARK, type FakeOptions } from '../helpers/fake-engine.js';
import { right, type SumsOptions, sumsPolicy } from '../helpers/sums.js';

type Overrides = { search?: object; judge?: object; select?: object; seed?: number; signal?: AbortSignal };

function optionsOf({ search = {}, judge = {}, select = {}, seed = 1, signal }: Overrides): SearchOptions {
  return {
    search: searchSchema.parse({ temperature: 1, ...search }),
    judge: judgeSchema.parse(judge),
    select: selectSchema.parse(select),
    seed,
    ...(signal ? { signal } : {}),
  };
}

const PROBLEMS = Array.from({ length: 6 }, (_, i) => ({ id: `p${i}`, problem: `${i + 3}+${2 * i + 1}+${i}+2` }));

async function search(overrides: Overrides, sums: SumsOptions & Partial<FakeOptions> = {}, problems = PROBLEMS) {
  const { policy, engine } = await sumsPolicy(sums);
  const result = await searchSteps(policy, problems, optionsOf(overrides));
  expect(engine.tree.held).toBe(0);
  return { ...result, engine, policy };
}

/** Steps to choose from in a row: each line names, best first, what may follow. */
const MAZE: Record<string, string[]> = {
  '': ['trap', 'good', 'fine', 'bad'],
  // The judge cannot tell these apart.
  trap: ['x=', 'y='],
  'x=': ['x=', 'y='],
  'y=': ['x=', 'y='],
  good: ['win', 'lose'],
  win: ['win', 'lose'],
  lose: ['win', 'lose'],
  fine: ['win', 'lose'],
  bad: ['win', 'lose'],
};
const LENGTH = 4;

/** Four steps through the maze, each drawn evenly; the last ends the solution. The judge goes by the order of a line. */
const maze: FakeOptions['respond'] = (prompt, { random }) => {
  if (prompt.startsWith('You are a fair judge')) {
    const shown = (name: string) =>
      new RegExp(`Assistant ${name}'s Next Step\\]\\n([\\s\\S]*?)\\n\\[The End`).exec(prompt)?.[1]?.trim() ?? '';
    const [a, b] = [shown('A'), shown('B')];
    const order = Object.values(MAZE).find((line) => line.includes(a) && line.includes(b)) ?? [];
    return a.endsWith('=') || order.indexOf(a) < order.indexOf(b) ? '[[A]]' : '[[B]]';
  }
  const lines = prompt.slice(prompt.lastIndexOf('Problem: ')).split('\n').slice(2).filter(Boolean);
  const next = MAZE[lines.at(-1) ?? ''] ?? [];
  return `${next[Math.floor(random() * next.length)]}${lines.length + 1 === LENGTH ? EOS_MARK : '\n'}`;
};
const MAZE_SEARCH = { width: 24, max_steps: 6 };

const pathOf = ({ steps }: SearchTree) => steps.map(({ candidates, chosen }) => candidates[chosen]?.text.trim());

describe.each(['beam', 'best_first'] as const)('%s search', (strategy) => {
  it('records the path with its pairs, and every other expansion as not taken', async () => {
    const { trees, engine } = await search({ search: { strategy } }, { slip: 0.5 });
    const forks = engine.requests.filter(({ samples }) => samples === 6);
    expect(forks.length).toBe(trees.reduce((sum, { steps, discarded }) => sum + steps.length + discarded.length, 0));
    let pairs = 0;
    for (const { steps, discarded, rollbacks, finish } of trees) {
      expect([rollbacks, finish]).toEqual([0, 'eos']);
      for (const { candidates, chosen, rejected, outcome, verdicts } of steps) {
        const wins = candidates.map((candidate) => candidate.wins);
        const least = Math.min(...wins);
        if (candidates.length === 1) expect([rejected, outcome, verdicts]).toEqual([null, 'unanimous', []]);
        else if (wins[chosen] === least) expect([rejected, outcome]).toEqual([null, 'margin']);
        else {
          expect([wins[rejected as number], outcome]).toEqual([least, 'pair']);
          expect(right(candidates[rejected as number]?.text ?? '')).toBe(0);
          pairs++;
        }
      }
      for (const { reason, depth } of discarded) {
        expect(reason).toBe('not_taken');
        expect(depth).toBeLessThan(steps.length + 1);
      }
    }
    expect(pairs).toBeGreaterThan(5);
    // No two expansions of a problem share a random stream.
    const streams = forks.map(({ treeKeys, steps }) => `${treeKeys?.[0]} ${steps?.[0]}`);
    expect(new Set(streams).size).toBe(streams.length);
  });

  it('follows a sound judge to right solutions', async () => {
    // Few enough slips that every step has a right candidate.
    const { trees } = await search({ search: { strategy } }, { slip: 0.3 });
    for (const [i, tree] of trees.entries()) {
      const answer = PROBLEMS[i]?.problem.split('+').reduce((sum, term) => sum + Number(term), 0);
      expect(pathOf(tree).at(-1)).toBe(`The answer is \\boxed{${answer}}`);
    }
  });

  it('gives a problem the same tree whatever else is searched, and however much at once', async () => {
    const all = (await search({ search: { strategy } }, { slip: 0.5 })).trees;
    const some = (await search({ search: { strategy } }, { slip: 0.5 }, PROBLEMS.slice(2, 4))).trees;
    expect(some).toEqual(all.slice(2, 4));
    const one = (await search({ search: { strategy, open_trees: 1 } }, { slip: 0.5 })).trees;
    expect(one).toEqual(all);
    expect((await search({ search: { strategy }, seed: 2 }, { slip: 0.5 })).trees).not.toEqual(all);
  });

  it('leaves a step that only looked best', async () => {
    const problems = PROBLEMS.slice(0, 2);
    const greedy = await search({ search: MAZE_SEARCH, select: { max_rollbacks: 0 } }, { respond: maze }, problems);
    for (const tree of greedy.trees) expect(pathOf(tree)[0]).toBe('trap');
    const config = { ...MAZE_SEARCH, strategy, depth_bonus: 0, expansions: 40 };
    const { trees } = await search({ search: config }, { respond: maze }, problems);
    for (const tree of trees) {
      expect(pathOf(tree)).toEqual(['good', 'win', 'win', 'win']);
      expect(tree.steps.map(({ outcome }) => outcome)).toEqual(['pair', 'pair', 'pair', 'pair']);
      expect(tree.steps[0]?.candidates[tree.steps[0].rejected as number]?.text.trim()).toBe('bad');
      expect(tree.discarded.some(({ depth }) => depth === 2)).toBe(true);
    }
  });

  it('makes no pair of a chosen step without more wins than the fewest', async () => {
    // Every comparison is a tie.
    const { trees } = await search({ search: { strategy } }, { slip: 0.5, judge: () => '[[A]]' });
    for (const step of trees.flatMap(({ steps }) => steps)) {
      expect([step.rejected, ['margin', 'unanimous'].includes(step.outcome)]).toEqual([null, true]);
    }
  });

  it('judges in swiss rounds or by knockout as well', async () => {
    for (const pairing of ['swiss', 'knockout']) {
      const { trees } = await search({ search: { strategy }, judge: { pairing } }, { slip: 0.5 });
      for (const { finish, steps } of trees) {
        expect(finish).toBe('eos');
        for (const step of steps) {
          for (const { wins } of step.candidates) expect(wins).toBeLessThanOrEqual(mostWins(step));
        }
      }
    }
  });

  it('ends at max_steps, at the last position, and where no candidate is whole', async () => {
    const { trees } = await search({ search: { strategy, max_steps: 2 } }, { slip: 0.5 });
    for (const { finish, steps } of trees) expect([finish, steps.length]).toEqual(['max_steps', 2]);
    const none = await search({ search: { strategy } }, { maxPositions: 20 });
    for (const { finish, steps } of none.trees) expect([finish, steps.length]).toEqual(['length', 0]);
    const prompt = none.policy.prompts.solve('1+2+3').length;
    const short = await search({ search: { strategy } }, { slip: 0, maxPositions: prompt + 10 }, [
      { id: 'p', problem: '1+2+3' },
    ]);
    expect(short.trees).toMatchObject([{ finish: 'length', steps: [{ outcome: 'unanimous' }] }]);
    const cut = await search({ search: { strategy, max_step_tokens: 4 } }, { slip: 0.5 });
    for (const { finish, steps, discarded } of cut.trees) {
      expect([finish, steps.length]).toEqual(['length', 0]);
      expect(discarded.map(({ reason, depth }) => [reason, depth])).toEqual([['cut_off', 0]]);
    }
  });

  it('keeps one path of samples that are the same', async () => {
    const { trees } = await search({ search: { strategy, merge: false, max_steps: 2 } }, { slip: 0 });
    for (const { steps, discarded } of trees) {
      expect(steps.length).toBe(2);
      // With twins kept apart there would be others to expand.
      expect(discarded).toEqual([]);
    }
  });
});

describe('beam search', () => {
  it('expands at most as many solutions of a length as it keeps', async () => {
    for (const beam of [1, 3]) {
      const { trees } = await search({ search: { strategy: 'beam', beam } }, { slip: 0.5 });
      for (const { steps, discarded } of trees) {
        for (const depth of steps.keys()) {
          const made = 1 + discarded.filter((step) => step.depth === depth).length;
          expect(made).toBeLessThanOrEqual(depth === 0 ? 1 : beam);
        }
      }
      expect(trees.some(({ discarded }) => discarded.length > 0)).toBe(beam > 1);
    }
  });

  it('of one solution takes the steps that a greedy search does', async () => {
    const one = await search({ search: { strategy: 'beam', beam: 1 } }, { slip: 0.5 });
    const greedy = await search({ select: { max_rollbacks: 0 } }, { slip: 0.5 });
    expect(one.trees.map(pathOf)).toEqual(greedy.trees.map(pathOf));
    expect(one.counts).toEqual(greedy.counts);
  });
});

describe('best-first search', () => {
  it('expands no more than it is told, and takes the best of the longest where none ended', async () => {
    for (const expansions of [1, 2, 5]) {
      const config = { strategy: 'best_first', expansions };
      const { trees } = await search({ search: config }, { slip: 0.5 });
      for (const { steps, discarded, finish } of trees) {
        expect(steps.length + discarded.length).toBeLessThanOrEqual(expansions);
        if (finish !== 'eos') expect([finish, steps.length + discarded.length]).toEqual(['max_steps', expansions]);
      }
    }
    const { trees } = await search({ search: { strategy: 'best_first', expansions: 2 } }, { slip: 0.5 });
    for (const { steps, finish } of trees) expect([finish, steps.length]).toEqual(['max_steps', 2]);
  });

  it('goes straight on where a step taken is worth enough', async () => {
    const config = { ...MAZE_SEARCH, strategy: 'best_first', depth_bonus: 1 };
    const { trees } = await search({ search: config }, { respond: maze }, PROBLEMS.slice(0, 2));
    for (const tree of trees) expect([pathOf(tree)[0], tree.steps.length, tree.discarded]).toEqual(['trap', 4, []]);
  });
});

describe.each(['greedy', 'beam', 'best_first'] as const)('a cancelled %s search', (strategy) => {
  it.each([0, 3, 8])('lets go of every node, after %i requests', async (most) => {
    const controller = new AbortController();
    const { policy, engine } = await sumsPolicy({ slip: 0.5 });
    const generate = engine.generate.bind(engine);
    engine.generate = (request, options) => {
      if (engine.requests.length >= most) controller.abort();
      return generate(request, options);
    };
    const options = optionsOf({ search: { strategy, open_trees: 2 }, signal: controller.signal });
    await expect(searchSteps(policy, PROBLEMS, options)).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(engine.tree.held).toBe(0);
  });
});
