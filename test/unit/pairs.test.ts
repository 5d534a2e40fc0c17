// Searched trees to pairs.jsonl lines and training trees.

import { describe, expect, it } from 'vitest';
import { judgeSchema, searchSchema, selectSchema } from '../../src/config/recipe.js';
import { Grader } from '../../src/eval/grader.js';
import { pairRecords, preferenceTree } from '../../src/loop/pairs.js';
import { searchSteps } from '../../src/loop/search.js';
import { type SearchRecord, searchRecord } from '../../src/loop/search-record.js';
import { flattenTrees } from '../../src/training/pairs.js';
import { sumsPolicy } from '../helpers/sums.js';

const grader = new Grader();
const PROBLEMS = Array.from({ length: 8 }, (_, i) => ({ id: `p${i}`, problem: `${i}+${i + 4}+3+9` }));

async function searched(): Promise<{
  records: SearchRecord[];
  text: Awaited<ReturnType<typeof sumsPolicy>>['policy']['text'];
}> {
  const { policy } = await sumsPolicy({ slip: 0.3 });
  const { trees } = await searchSteps(policy, PROBLEMS, {
    search: searchSchema.parse({ temperature: 1 }),
    judge: judgeSchema.parse({}),
    select: selectSchema.parse({}),
    seed: 3,
  });
  const answers = new Map(
    PROBLEMS.map(({ id, problem }) => [id, String(problem.split('+').reduce((sum, n) => sum + Number(n), 0))]),
  );
  return {
    records: await Promise.all(trees.map((tree) => searchRecord(policy, tree, answers, grader))),
    text: policy.text,
  };
}

describe('pairs', () => {
  it('hold text that says what their ids say, each prompt with the chosen steps before it', async () => {
    const { records, text } = await searched();
    const pairs = records.flatMap((record) => pairRecords(record, text, 'one'));
    expect(pairs.length).toBeGreaterThan(5);
    for (const pair of pairs) {
      const { candidates, chosen, rejected } = records.find(({ id }) => id === pair.id)?.steps[pair.step] ?? {
        candidates: [],
        chosen: -1,
        rejected: -1,
      };
      expect(pair.chosen_ids).toEqual(candidates[chosen]?.ids);
      expect(pair.rejected_ids).toEqual(candidates[rejected as number]?.ids);
      expect(pair.chosen_ids).not.toEqual(pair.rejected_ids);
      expect([pair.prompt, pair.chosen, pair.rejected]).toEqual(
        [pair.prompt_ids, pair.chosen_ids, pair.rejected_ids].map((ids) => text.decodeAll(ids)),
      );
      expect(pair.margin).toBeGreaterThan(0);
      const before = records.find(({ id }) => id === pair.id)?.steps.slice(0, pair.step) ?? [];
      for (const step of before) expect(pair.prompt).toContain(step.candidates[step.chosen]?.text);
    }
  });

  it('make trees whose flattened pairs are the same', async () => {
    const { records, text } = await searched();
    const pairs = records.flatMap((record) => pairRecords(record, text, 'margin'));
    const trees = records.flatMap((record) => preferenceTree(record, 'margin') ?? []);
    const flat = flattenTrees(trees).pairs;
    expect(flat.map(({ chosen, rejected, weight }) => [Array.from(chosen), Array.from(rejected), weight])).toEqual(
      pairs.map((pair) => [pair.chosen_ids, pair.rejected_ids, pair.weight]),
    );
    for (const { steps } of trees) expect(steps.at(-1)?.rejected.length).toBe(1);
  });

  it('weigh by margin over the most wins there can be', async () => {
    const { records, text } = await searched();
    for (const record of records) {
      for (const pair of pairRecords(record, text, 'margin')) {
        const step = record.steps[pair.step];
        expect(pair.weight).toBeCloseTo(pair.margin / ((step?.candidates.length ?? 0) - 1), 12);
        expect(pair.weight).toBeLessThanOrEqual(1);
      }
    }
  });

  it('come with the answer and, only in the record, whether it is right', async () => {
    const { records } = await searched();
    for (const record of records) {
      expect(record.solution.endsWith(`\\boxed{${record.answer}}`)).toBe(true);
      expect(record.correct).toBe(record.answer === record.gold);
    }
    expect(records.some(({ correct }) => correct)).toBe(true);
  });
});
