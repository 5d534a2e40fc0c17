// Step search (paper section 3.3): candidates for a problem's next step are sampled, the judge compares them, and a strategy
// says which solutions go on. Many problems are searched at once, each on its own; the engine runs what they ask together,
// and finishes the earlier ones first. Sees no gold answers.

import type { SearchConfig } from '../config/recipe.js';
import { treeKey } from '../data/tree-key.js';
import { beam } from './beam.js';
import { bestFirst } from './best-first.js';
import { greedy } from './greedy.js';
import type { Policy } from './policy.js';
import { inOrder } from './pool.js';
import type { SearchOptions, Strategy } from './problem-search.js';
import type { Problem } from './records.js';
import { emptyCounts, type SearchCounts, type SearchTree } from './types.js';

export type { SearchOptions, SearchProgress } from './problem-search.js';

const STRATEGIES: Record<SearchConfig['strategy'], Strategy> = { greedy, beam, best_first: bestFirst };

/** One tree per problem, in the problems' order. A problem's tree does not depend on the other problems. */
export async function searchSteps(
  policy: Policy,
  problems: readonly Problem[],
  options: SearchOptions,
): Promise<{ trees: SearchTree[]; counts: SearchCounts }> {
  const counts = emptyCounts();
  const before = await policy.engine.tree.counters();
  const grow = STRATEGIES[options.search.strategy];
  let [done, open, steps] = [0, 0, 0];
  const report = () => options.onProgress?.({ done, problems: problems.length, open, steps });
  const onStep = () => {
    steps++;
    report();
  };
  const trees = await inOrder(problems, options.search.open_trees, async ({ id, problem }, priority) => {
    open++;
    const promptIds = policy.prompts.solve(problem);
    const of = { policy, options, counts, problem: { id, problem }, promptIds, key: treeKey(id), priority, onStep };
    const tree = await grow(of);
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
