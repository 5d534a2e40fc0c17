// The paper's search (section 3.3): the best candidate continues the one path, and where the judge sees no difference the
// previous step is taken back.

import type { NodeNumber } from '../native/types.js';
import { type Expansion, expand } from './expand.js';
import { fullness, openPrompt, type ProblemSearch } from './problem-search.js';
import { select } from './select.js';
import type { Candidate, SearchTree } from './types.js';

/** A tree that is still growing. */
interface OpenTree {
  tree: SearchTree;
  /** The engine's nodes of the prompt and of each accepted step. */
  trunk: NodeNumber[];
}

export async function greedy(search: ProblemSearch): Promise<SearchTree> {
  const { policy, problem, promptIds } = search;
  const nodes = policy.engine.tree;
  const tree: SearchTree = { ...problem, promptIds, steps: [], discarded: [], rollbacks: 0, finish: 'eos' };
  const open = { tree, trunk: [openPrompt(search)] };
  try {
    // Visits never go back, so a step tried again after a rollback draws fresh candidates.
    for (let visit = 0; ; visit++) {
      const steps = stepsOf(tree);
      const full = fullness(search, steps);
      if (full) return Object.assign(tree, { finish: full });
      const expansion = await expand(search, { node: open.trunk.at(-1) as NodeNumber, steps }, visit);
      const chosen = decide(search, open, expansion);
      nodes.release(expansion.nodes.filter((_, i) => i !== chosen));
      if (chosen !== undefined) open.trunk.push(expansion.nodes[chosen] as NodeNumber);
      search.onStep();
      if (expansion.eligible.length === 0) return Object.assign(tree, { finish: 'length' });
      if (chosen !== undefined && expansion.candidates[chosen]?.finish === 'eos') return tree;
    }
  } finally {
    nodes.release(open.trunk);
  }
}

/** Ids of each accepted step. */
function stepsOf({ steps }: SearchTree): number[][] {
  return steps.map(({ candidates, chosen }) => (candidates[chosen] as Candidate).ids);
}

/** Extends the tree or takes its last step back. The candidate that continues it, where one does. */
function decide(search: ProblemSearch, { tree, trunk }: OpenTree, expansion: Expansion): number | undefined {
  const { nodes: _, eligible, depth, ...judged } = expansion;
  if (eligible.length === 0) {
    tree.discarded.push({ depth, ...judged, reason: 'cut_off' });
    return undefined;
  }
  const config = search.options.select;
  const choice = select(judged.candidates, eligible, config, config.max_rollbacks - tree.rollbacks);
  if (choice.kind === 'accept') {
    const { chosen, rejected, outcome } = choice;
    tree.steps.push({ ...judged, chosen, rejected, outcome });
    return chosen;
  }
  tree.rollbacks++;
  tree.discarded.push({ depth, ...judged, reason: 'no_spread' });
  // At the first step there is nothing to drop: it is only sampled again.
  const dropped = tree.steps.pop();
  if (!dropped) return undefined;
  search.policy.engine.tree.release([trunk.pop() as NodeNumber]);
  const { chosen, rejected, outcome, ...before } = dropped;
  tree.discarded.push({ depth: depth - 1, ...before, reason: 'rolled_back' });
  return undefined;
}
