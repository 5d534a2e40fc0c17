// One iteration, top to bottom: M(n) searches and judges, its preferences become pairs, the update makes M(n+1), and
// M(n+1) is evaluated. Each stage reads what the one before wrote, and is left out where its files are there already.

import { JsonlWriter } from '../data/jsonl.js';
import { type JudgeReport, judgePairs, judgeReport } from '../judge/report.js';
import { rate } from '../judge/tally.js';
import { deriveSeed } from '../random.js';
import { finished, type ModelFolder, writeJson } from '../run/folder.js';
import { type RunContext, secondsSince, withPolicy } from './context.js';
import { type AccuracyReport, evaluateSolving } from './evaluate.js';
import { labelledPairsOf } from './example-records.js';
import { fittingPairs, fittingProblems } from './fits.js';
import { pairRecords } from './pairs.js';
import type { Policy } from './policy.js';
import { type GoldAnswers, type PlacedProblems, problemsOf } from './records.js';
import { searchSteps } from './search.js';
import { searchRecord } from './search-record.js';
import type { SearchCounts, SearchTree } from './types.js';
import { update } from './update.js';

/** Makes M(n+1), `target`, from M(n), `source`. */
export async function iterate(
  source: ModelFolder,
  target: ModelFolder,
  slice: PlacedProblems,
  context: RunContext,
): Promise<void> {
  if (target.has('model')) return;
  const { recipe, folder } = context;
  await withPolicy(context, { directory: source.model }, async (policy) => {
    if (!target.has('search.jsonl') || !target.has('search.json')) await search(target, policy, slice, context);
    if (recipe.update.reference === 'm1' && source.name !== 'M1') {
      await withPolicy(context, { directory: folder.model(1).model }, (m1) => update(target, policy, m1, context));
    } else {
      await update(target, policy, undefined, context);
    }
  });
}

/** What search.json holds: the counts of the search and what came of it. */
export interface SearchSummary extends SearchCounts {
  problems: number;
  pairs: number;
  flip_rate: number | null;
  first_rate: number | null;
  rollbacks: number;
  mean_steps: number | null;
  /** Trees by how they ended. */
  finish: Record<SearchTree['finish'], number>;
  /** Share of the problems with an answer that the search solved; null where none has one. Never read by the loop. */
  accuracy: number | null;
}

async function search(target: ModelFolder, policy: Policy, slice: PlacedProblems, context: RunContext): Promise<void> {
  const { recipe, hooks } = context;
  const start = performance.now();
  const stage = `${target.name} search`;
  const { problems } = fittingProblems(policy, slice);
  const { trees, counts } = await searchSteps(policy, problems, {
    search: recipe.search,
    judge: recipe.judge,
    select: recipe.select,
    seed: deriveSeed(recipe.seed, 'search', target.name),
    ...(hooks.signal ? { signal: hooks.signal } : {}),
    onProgress: ({ done, problems: total, open, steps }) =>
      hooks.progress?.(stage, done, total, `${open} open, ${steps} steps`),
  });
  hooks.progress?.(stage, trees.length, trees.length);
  const summary = await writeTrees(policy, trees, slice.answers, counts, context, {
    search: target.path('search.jsonl'),
    pairs: target.path('pairs.jsonl'),
  });
  writeJson(target.path('search.json'), { ...summary, seconds: secondsSince(start) });
}

/** Writes pairs.jsonl and then search.jsonl. */
export async function writeTrees(
  policy: Policy,
  trees: readonly SearchTree[],
  answers: GoldAnswers,
  counts: SearchCounts,
  { recipe, grader }: Pick<RunContext, 'grader'> & { recipe: Pick<RunContext['recipe'], 'select'> },
  paths: { search: string; pairs: string },
): Promise<SearchSummary> {
  let [pairs, correct, graded, steps] = [0, 0, 0, 0];
  const finish = { eos: 0, max_steps: 0, length: 0 };
  await finished(paths.search, (searchPart) =>
    finished(paths.pairs, async (pairsPart) => {
      const [searchFile, pairsFile] = [new JsonlWriter(searchPart), new JsonlWriter(pairsPart)];
      try {
        for (const tree of trees) {
          const record = await searchRecord(policy, tree, answers, grader);
          searchFile.write(record);
          for (const pair of pairRecords(record, policy.text, recipe.select.pair_weight)) {
            pairsFile.write(pair);
            pairs++;
          }
          steps += record.steps.length;
          finish[record.finish]++;
          if (record.correct !== undefined) graded++;
          if (record.correct === true) correct++;
        }
      } finally {
        searchFile.close();
        pairsFile.close();
      }
    }),
  );
  return {
    problems: trees.length,
    pairs,
    ...counts,
    flip_rate: rate(counts.flips, counts.both_orders),
    first_rate: rate(counts.first_wins, counts.decided),
    rollbacks: trees.reduce((sum, { rollbacks }) => sum + rollbacks, 0),
    mean_steps: rate(steps, trees.length),
    finish,
    accuracy: rate(correct, graded),
  };
}

/** What eval.json holds. */
export interface Evaluation extends Partial<AccuracyReport> {
  model: string;
  judge?: JudgeReport;
  seconds: number;
}

const LONGEST_SOLUTION = 2048;

/** Evaluates a finished model, or reads the evaluation it has. */
export async function evaluate(target: ModelFolder, context: RunContext): Promise<Evaluation> {
  if (target.has('eval.json')) return target.readJson<Evaluation>('eval.json');
  const { recipe, hooks, grader } = context;
  const { source, judge_source: judgeSource } = recipe.evaluate;
  const start = performance.now();
  const signal = hooks.signal ? { signal: hooks.signal } : {};
  const evaluation = await withPolicy(context, { directory: target.model }, async (policy) => {
    const made: Omit<Evaluation, 'seconds'> = { model: target.name };
    if (source) {
      const stage = `${target.name} evaluate`;
      const held = fittingProblems(policy, await problemsOf(source, true));
      hooks.progress?.(stage, 0, held.problems.length);
      const { max_steps, max_step_tokens } = recipe.search;
      const maxTokens = recipe.evaluate.max_tokens ?? Math.min(LONGEST_SOLUTION, max_steps * max_step_tokens);
      const { report, records } = await evaluateSolving(policy, held, grader, {
        maxTokens,
        ...signal,
        onProgress: (done, total) => hooks.progress?.(stage, done, total),
      });
      hooks.progress?.(stage, report.n, report.n);
      await finished(target.path('solutions.jsonl'), async (part) => {
        const file = new JsonlWriter(part);
        for (const record of records) file.write(record);
        file.close();
      });
      Object.assign(made, report);
    }
    if (judgeSource) {
      const stage = `${target.name} evaluate judge`;
      const pairs = fittingPairs(policy, await labelledPairsOf(judgeSource), recipe.judge.mode);
      hooks.progress?.(stage, 0, 2 * pairs.length);
      const answers = await judgePairs(policy, pairs, {
        judge: recipe.judge,
        seed: deriveSeed(recipe.seed, 'judge evaluation'),
        ...signal,
        onProgress: (done, total) => hooks.progress?.(stage, done, total),
      });
      hooks.progress?.(stage, 2 * pairs.length, 2 * pairs.length);
      made.judge = judgeReport(
        pairs.map(({ label }) => label),
        answers,
      );
    }
    return made;
  });
  const result = { ...evaluation, seconds: secondsSince(start) };
  writeJson(target.path('eval.json'), result);
  return result;
}
