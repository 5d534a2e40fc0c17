// Step search over many problems at once (paper section 3.3): in every round each open problem gets candidates for its
// next step, the judge compares them, and the best continues the path. Two engine calls a round, whatever the number
// of problems. Sees no gold answers.

import type { JudgeConfig, SearchConfig, SelectConfig } from '../config/recipe.js';
import { PrefixForest } from '../data/forest.js';
import { treeKey } from '../data/tree-key.js';
import { deriveSeed } from '../random.js';
import { candidatesOf } from './candidates.js';
import { type Contest, judgeContests } from './judge.js';
import type { Policy } from './policy.js';
import type { Problem } from './records.js';
import { select } from './select.js';
import { type Candidate, emptyCounts, type SearchCounts, type SearchTree, type Verdict } from './types.js';

export interface SearchProgress {
  /** Problems whose search is over, of how many. */
  done: number;
  problems: number;
  round: number;
  phase: 'sample' | 'judge';
}

export interface SearchOptions {
  search: SearchConfig;
  judge: JudgeConfig;
  select: SelectConfig;
  seed: number;
  signal?: AbortSignal;
  onProgress?(progress: SearchProgress): void;
}

/** A tree that is still growing. */
interface OpenTree {
  tree: SearchTree;
  key: bigint;
  /** Prompt and accepted steps. */
  ids: number[];
  /** Times it was sampled. Never goes back, so a step tried again after a rollback draws fresh candidates. */
  visits: number;
  finished: boolean;
}

/** One tree per problem, in the problems' order. A problem's tree does not depend on the other problems. */
export async function searchSteps(
  policy: Policy,
  problems: readonly Problem[],
  options: SearchOptions,
): Promise<{ trees: SearchTree[]; counts: SearchCounts }> {
  const counts = emptyCounts();
  const all = problems.map((problem) => openTree(policy, problem));
  for (let round = 1; ; round++) {
    for (const open of all) finishIfFull(policy, open, options);
    const growing = all.filter((open) => !open.finished);
    if (growing.length === 0) break;
    const report = (phase: SearchProgress['phase']) =>
      options.onProgress?.({ done: all.length - growing.length, problems: all.length, round, phase });
    report('sample');
    const candidates = await sampleCandidates(policy, growing, options, counts);
    const contests = growing.map((open, i) => contestOf(open, candidates[i] as Candidate[], options));
    report('judge');
    const ask = { judge: options.judge, seed: deriveSeed(options.seed, 'judge'), signal: options.signal };
    const verdicts = await judgeContests(policy, contests, ask, counts);
    for (const [i, open] of growing.entries()) {
      open.visits++;
      decide(open, contests[i] as Contest, verdicts[i] as Verdict[], options);
    }
  }
  return { trees: all.map(({ tree }) => tree), counts };
}

function openTree(policy: Policy, { id, problem }: Problem): OpenTree {
  const promptIds = policy.prompts.solve(problem);
  const tree: SearchTree = { id, problem, promptIds, steps: [], discarded: [], rollbacks: 0, finish: 'eos' };
  return { tree, key: treeKey(id), ids: [...promptIds], visits: 0, finished: false };
}

function finish(open: OpenTree, how: SearchTree['finish']): void {
  open.finished = true;
  open.tree.finish = how;
}

function finishIfFull(policy: Policy, open: OpenTree, { search }: SearchOptions): void {
  if (open.finished) return;
  if (open.ids.length >= policy.engine.info.maxPositions) finish(open, 'length');
  else if (open.tree.steps.length >= search.max_steps) finish(open, 'max_steps');
}

async function sampleCandidates(
  policy: Policy,
  growing: readonly OpenTree[],
  { search, seed, signal }: SearchOptions,
  counts: SearchCounts,
): Promise<Candidate[][]> {
  const forest = new PrefixForest();
  for (const [i, { ids }] of growing.entries()) {
    forest.add(ids, i);
    counts.prompt_tokens += ids.length;
  }
  const result = await policy.engine.generate(
    {
      ...forest.build(),
      samples: search.width,
      seed,
      treeKeys: BigUint64Array.from(growing, ({ key }) => key),
      steps: Int32Array.from(growing, ({ visits }) => visits),
      temperature: search.temperature,
      topP: search.top_p,
      topK: search.top_k,
      maxNewTokens: search.max_step_tokens,
      eosIds: Int32Array.from(policy.prompts.eosIds),
      stop: [policy.prompts.format.step_delimiter],
    },
    { signal },
  );
  counts.generated_tokens += result.tokens.length;
  counts.computed_tokens += result.computedTokens;
  counts.prefix_free_tokens += result.prefixFreeTokens;
  return growing.map((_, i) => {
    const rows = { first: i * search.width, count: search.width };
    return candidatesOf(result, rows, policy.text, search.merge);
  });
}

function contestOf({ tree, ids, visits }: OpenTree, candidates: Candidate[], { search }: SearchOptions): Contest {
  const eligible = [...candidates.keys()].filter(
    (i) => search.truncated === 'keep' || candidates[i]?.finish !== 'length',
  );
  return {
    id: tree.id,
    problem: tree.problem,
    stepIds: ids.slice(tree.promptIds.length),
    visit: visits,
    candidates,
    eligible,
  };
}

function decide(open: OpenTree, { candidates, eligible }: Contest, verdicts: Verdict[], options: SearchOptions): void {
  const { tree } = open;
  const depth = tree.steps.length;
  if (eligible.length === 0) {
    tree.discarded.push({ depth, candidates, verdicts, reason: 'cut_off' });
    finish(open, 'length');
    return;
  }
  const choice = select(candidates, eligible, options.select, options.select.max_rollbacks - tree.rollbacks);
  if (choice.kind === 'accept') {
    const { chosen, rejected, outcome } = choice;
    tree.steps.push({ candidates, verdicts, chosen, rejected, outcome });
    const step = candidates[chosen] as Candidate;
    for (const id of step.ids) open.ids.push(id);
    if (step.finish === 'eos') finish(open, 'eos');
    return;
  }
  tree.rollbacks++;
  tree.discarded.push({ depth, candidates, verdicts, reason: 'no_spread' });
  // At the first step there is nothing to drop: it is only sampled again.
  const dropped = tree.steps.pop();
  if (!dropped) return;
  open.ids.length -= dropped.candidates[dropped.chosen]?.ids.length ?? 0;
  tree.discarded.push({
    depth: depth - 1,
    candidates: dropped.candidates,
    verdicts: dropped.verdicts,
    reason: 'rolled_back',
  });
}
