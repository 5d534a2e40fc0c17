// Step search (paper section 3.3): candidates for a problem's next step are sampled, the judge compares them, and the best
// continues the path. Many problems are searched at once, each on its own; the engine runs what they ask together, and
// finishes the earlier ones first. Sees no gold answers.

import type { JudgeConfig, SearchConfig, SelectConfig } from '../config/recipe.js';
import { treeKey } from '../data/tree-key.js';
import type { ForkResult, NodeNumber } from '../native/types.js';
import { deriveSeed } from '../random.js';
import { candidatesOf } from './candidates.js';
import { type Contest, judgeContest } from './judge.js';
import type { Policy } from './policy.js';
import { inOrder } from './pool.js';
import type { Problem } from './records.js';
import { select } from './select.js';
import { type Candidate, emptyCounts, type SearchCounts, type SearchTree, type Verdict } from './types.js';

export interface SearchProgress {
  /** Problems whose search is over, of how many. */
  done: number;
  problems: number;
  /** Problems being searched now. */
  open: number;
  /** Steps accepted so far. */
  steps: number;
}

export interface SearchOptions {
  search: SearchConfig;
  judge: JudgeConfig;
  select: SelectConfig;
  seed: number;
  signal?: AbortSignal | undefined;
  onProgress?(progress: SearchProgress): void;
}

/** A tree that is still growing. */
interface OpenTree {
  tree: SearchTree;
  key: bigint;
  /** Lower for earlier problems: the engine finishes those first. */
  priority: number;
  /** The engine's nodes of the prompt and of each accepted step. */
  trunk: NodeNumber[];
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
  const before = await policy.engine.tree.counters();
  let [done, open, steps] = [0, 0, 0];
  const report = () => options.onProgress?.({ done, problems: problems.length, open, steps });
  const trees = await inOrder(problems, options.search.open_trees, async (problem, i) => {
    open++;
    const tree = await growTree(policy, openTree(policy, problem, i), options, counts, () => {
      steps++;
      report();
    });
    open--;
    done++;
    report();
    return tree;
  });
  const after = await policy.engine.tree.counters();
  counts.computed_tokens = after.promptTokensComputed - before.promptTokensComputed;
  counts.prefix_free_tokens = after.promptTokensPrefixFree - before.promptTokensPrefixFree;
  return { trees, counts };
}

/** Samples, judges and chooses, step after step, until the tree ends. */
async function growTree(
  policy: Policy,
  open: OpenTree,
  options: SearchOptions,
  counts: SearchCounts,
  onStep: () => void,
): Promise<SearchTree> {
  const ask = {
    judge: options.judge,
    seed: deriveSeed(options.seed, 'judge'),
    signal: options.signal,
    priority: open.priority,
  };
  try {
    for (finishIfFull(policy, open, options); !open.finished; finishIfFull(policy, open, options)) {
      const fork = await sample(policy, open, options, counts);
      const { candidates, rows } = candidatesOf(fork, policy.text, options.search.merge);
      let kept: NodeNumber | undefined;
      try {
        const contest = contestOf(open, candidates, options);
        const verdicts = await judgeContest(policy, contest, ask, counts);
        open.visits++;
        const chosen = decide(policy, open, contest, verdicts, options);
        if (chosen !== undefined) kept = fork.firstNode + (rows[chosen] as number);
      } finally {
        policy.engine.tree.commit(kept ?? -1, fork);
      }
      if (kept !== undefined) open.trunk.push(kept);
      onStep();
    }
    return open.tree;
  } finally {
    policy.engine.tree.release(open.trunk);
  }
}

function openTree(policy: Policy, { id, problem }: Problem, priority: number): OpenTree {
  const promptIds = policy.prompts.solve(problem);
  const tree: SearchTree = { id, problem, promptIds, steps: [], discarded: [], rollbacks: 0, finish: 'eos' };
  return { tree, key: treeKey(id), priority, trunk: [policy.engine.tree.open(promptIds)], visits: 0, finished: false };
}

function finish(open: OpenTree, how: SearchTree['finish']): void {
  open.finished = true;
  open.tree.finish = how;
}

/** Ids of each accepted step. */
function stepsOf({ steps }: SearchTree): number[][] {
  return steps.map(({ candidates, chosen }) => (candidates[chosen] as Candidate).ids);
}

function lengthOf(tree: SearchTree): number {
  return stepsOf(tree).reduce((sum, ids) => sum + ids.length, tree.promptIds.length);
}

function finishIfFull(policy: Policy, open: OpenTree, { search }: SearchOptions): void {
  if (open.finished) return;
  if (lengthOf(open.tree) >= policy.engine.info.maxPositions) finish(open, 'length');
  else if (open.tree.steps.length >= search.max_steps) finish(open, 'max_steps');
}

async function sample(
  policy: Policy,
  { tree, key, priority, trunk, visits }: OpenTree,
  { search, seed, signal }: SearchOptions,
  counts: SearchCounts,
): Promise<ForkResult> {
  counts.prompt_tokens += lengthOf(tree);
  const fork = await policy.engine.tree.fork(
    [trunk.at(-1) as NodeNumber],
    {
      samples: search.width,
      seed,
      treeKeys: BigUint64Array.of(key),
      steps: Int32Array.of(visits),
      temperature: search.temperature,
      topP: search.top_p,
      topK: search.top_k,
      maxNewTokens: search.max_step_tokens,
      eosIds: Int32Array.from(policy.prompts.eosIds),
      stop: [policy.prompts.format.step_delimiter],
    },
    { signal, priority },
  );
  counts.generated_tokens += fork.tokens.length;
  return fork;
}

function contestOf({ tree, visits }: OpenTree, candidates: Candidate[], { search }: SearchOptions): Contest {
  const eligible = [...candidates.keys()].filter(
    (i) => search.truncated === 'keep' || candidates[i]?.finish !== 'length',
  );
  return { id: tree.id, problem: tree.problem, steps: stepsOf(tree), visit: visits, candidates, eligible };
}

/** Extends the tree or takes its last step back. The candidate that continues it, where one does. */
function decide(
  policy: Policy,
  open: OpenTree,
  { candidates, eligible }: Contest,
  verdicts: Verdict[],
  options: SearchOptions,
): number | undefined {
  const { tree } = open;
  const depth = tree.steps.length;
  if (eligible.length === 0) {
    tree.discarded.push({ depth, candidates, verdicts, reason: 'cut_off' });
    finish(open, 'length');
    return undefined;
  }
  const choice = select(candidates, eligible, options.select, options.select.max_rollbacks - tree.rollbacks);
  if (choice.kind === 'accept') {
    const { chosen, rejected, outcome } = choice;
    tree.steps.push({ candidates, verdicts, chosen, rejected, outcome });
    if (candidates[chosen]?.finish === 'eos') finish(open, 'eos');
    return chosen;
  }
  tree.rollbacks++;
  tree.discarded.push({ depth, candidates, verdicts, reason: 'no_spread' });
  // At the first step there is nothing to drop: it is only sampled again.
  const dropped = tree.steps.pop();
  if (!dropped) return undefined;
  policy.engine.tree.release([open.trunk.pop() as NodeNumber]);
  tree.discarded.push({
    depth: depth - 1,
    candidates: dropped.candidates,
    verdicts: dropped.verdicts,
    reason: 'rolled_back',
  });  return undefined;
}
