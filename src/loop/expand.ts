// One step of any strategy: candidates for the next step of a partial solution are sampled and judged.

import type { ForkResult, NodeNumber } from '../native/types.js';
import { deriveSeed } from '../random.js';
import { candidatesOf } from './candidates.js';
import { type Judged, judgeContest } from './judge.js';
import { lengthOf, type PartialSolution, type ProblemSearch } from './problem-search.js';
import type { Candidate } from './types.js';

export interface Expansion extends Judged {
  /** Steps before it. */
  depth: number;
  candidates: Candidate[];
  /** Candidates that were judged and may be chosen: those that were not cut off, or all with search.truncated keep. */
  eligible: number[];
  /** The engine's node of each candidate. All are held: the caller lets go of them. */
  nodes: NodeNumber[];
}

/** `visit`: how often this problem was sampled before. Each has a random stream of its own. */
export async function expand(search: ProblemSearch, after: PartialSolution, visit: number): Promise<Expansion> {
  const { policy, options, counts, problem, priority } = search;
  const { tree } = policy.engine;
  const fork = await sample(search, after, visit);
  const { candidates, rows } = candidatesOf(fork, policy.text, options.search.merge);
  const nodes = rows.map((row) => fork.firstNode + row);
  const merged = Array.from(fork.finish, (_, row) => fork.firstNode + row).filter((node) => !nodes.includes(node));
  tree.release(merged);
  const eligible = [...candidates.keys()].filter(
    (i) => options.search.truncated === 'keep' || candidates[i]?.finish !== 'length',
  );
  const ask = { judge: options.judge, seed: deriveSeed(options.seed, 'judge'), signal: options.signal, priority };
  try {
    const contest = { ...problem, steps: after.steps, visit, candidates, eligible };
    const judged = await judgeContest(policy, contest, ask, counts);
    return { ...judged, depth: after.steps.length, candidates, eligible, nodes };
  } catch (error) {
    tree.release(nodes);
    throw error;
  }
}

async function sample(search: ProblemSearch, { node, steps }: PartialSolution, visit: number): Promise<ForkResult> {
  const { policy, counts, key, priority } = search;
  const { search: config, seed, signal } = search.options;
  counts.prompt_tokens += lengthOf(search, steps);
  const fork = await policy.engine.tree.fork(
    [node],
    {
      samples: config.width,
      seed,
      treeKeys: BigUint64Array.of(key),
      steps: Int32Array.of(visit),
      temperature: config.temperature,
      topP: config.top_p,
      topK: config.top_k,
      minP: config.min_p,
      maxNewTokens: config.max_step_tokens,
      eosIds: Int32Array.from(policy.prompts.eosIds),
      stop: [policy.prompts.format.step_delimiter],
    },
    { signal, priority },
  );
  counts.generated_tokens += fork.tokens.length;
  return fork;
}
