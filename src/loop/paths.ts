// The solutions that a strategy with more than one path follows: what each is worth, the engine's nodes they end at, and
// the tree that is left of them once one is taken.

import { mostWins } from '../judge/tally.js';
import type { NodeNumber } from '../native/types.js';
import { type Expansion, expand } from './expand.js';
import { fullness, openPrompt, type PartialSolution, type ProblemSearch } from './problem-search.js';
import { goesFirst, pairWith, sameIds } from './select.js';
import type { Candidate, SearchStep, SearchTree } from './types.js';

/** A solution, whole or so far. */
export interface Path extends PartialSolution {
  /** Its last step; undefined for the prompt alone. */
  last: { before: Path; expansion: Expansion; chosen: number } | undefined;
  /** Sum over its steps of the share of the wins that there could be. */
  shares: number;
  /** Its last step ended the solution. */
  ended: boolean;
}

/** Mean over the steps of wins / most wins possible; 1 for no step. */
export function pathValue({ shares, steps }: Path): number {
  return steps.length === 0 ? 1 : shares / steps.length;
}

/** A step for which nothing else was sampled is worth 1: nothing was better. */
function shareOf(expansion: Expansion, chosen: number): number {
  const most = mostWins(expansion);
  if (expansion.eligible.length === 1 || most === 0) return 1;
  return (expansion.candidates[chosen] as Candidate).wins / most;
}

export class Paths {
  readonly root: Path;
  readonly #search: ProblemSearch;
  readonly #held = new Set<NodeNumber>();
  /** In the order in which they were begun. */
  readonly #expansions: Expansion[] = [];
  /** Paths after which no candidate was whole. */
  readonly #deadEnds = new Set<Path>();
  #visits = 0;

  constructor(search: ProblemSearch) {
    this.#search = search;
    const node = openPrompt(search);
    this.#held.add(node);
    this.root = { node, steps: [], last: undefined, shares: 0, ended: false };
  }

  /** Whether a path may be expanded: it has not ended and has room. */
  open({ ended, steps }: Path): boolean {
    return !ended && fullness(this.#search, steps) === undefined;
  }

  /**
   * The paths that are one step longer, none where every candidate was cut off. They hold their nodes, unless they have
   * ended; the path lets go of its own. Calls may run at once: what they draw depends on the order in which they began.
   */
  async expand(path: Path): Promise<Path[]> {
    const visit = this.#visits++;
    const expansion = await expand(this.#search, path, visit);
    this.#expansions[visit] = expansion;
    if (expansion.eligible.length === 0) this.#deadEnds.add(path);
    for (const node of expansion.nodes) this.#held.add(node);
    const { candidates, eligible, nodes } = expansion;
    // Unmerged samples of one step would be the same path.
    const distinct = eligible.filter(
      (i) => i === eligible.find((j) => sameIds(candidates[i] as Candidate, candidates[j] as Candidate)),
    );
    const children = distinct.map((chosen): Path => {
      const { ids, finish } = candidates[chosen] as Candidate;
      return {
        node: nodes[chosen] as NodeNumber,
        steps: [...path.steps, ids],
        last: { before: path, expansion, chosen },
        shares: path.shares + shareOf(expansion, chosen),
        ended: finish === 'eos',
      };
    });
    const wanted = new Set(children.filter((child) => this.open(child)).map(({ node }) => node));
    this.#release([path.node, ...nodes.filter((node) => !wanted.has(node))]);
    this.#search.onStep();
    return children;
  }

  /** Lets go of the nodes of paths that will not be expanded. */
  drop(paths: readonly Path[]): void {
    this.#release(paths.map(({ node }) => node));
  }

  /** Lets go of every node that is still held. */
  close(): void {
    this.#release([...this.#held]);
  }

  /** Best first by `worth`, then as `select.tie_chosen` says, then as given. */
  ranked(paths: readonly Path[], worth: (path: Path) => number): Path[] {
    const rule = this.#search.options.select.tie_chosen;
    return [...paths].sort((a, b) => {
      const by = worth(b) - worth(a);
      const [one, other] = [lastOf(a), lastOf(b)];
      if (by !== 0 || !one || !other) return by;
      return Number(goesFirst(other, one, rule)) - Number(goesFirst(one, other, rule));
    });
  }

  /** Those with the most steps. */
  longest(paths: readonly Path[]): Path[] {
    const most = Math.max(0, ...paths.map(({ steps }) => steps.length));
    return paths.filter(({ steps }) => steps.length === most);
  }

  /** The record of a search that takes this path. */
  tree(path: Path): SearchTree {
    const { problem, promptIds, options } = this.#search;
    const steps: SearchStep[] = [];
    const taken = new Set<Expansion>();
    for (let last = path.last; last; last = last.before.last) {
      const { expansion, chosen } = last;
      taken.add(expansion);
      const pair = pairWith(expansion.candidates, expansion.eligible, chosen, options.select);
      steps.unshift({ ...judgedOf(expansion), chosen, ...pair });
    }
    const discarded = this.#expansions
      .filter((expansion) => !taken.has(expansion))
      .map((expansion) => {
        const reason = expansion.eligible.length === 0 ? ('cut_off' as const) : ('not_taken' as const);
        return { depth: expansion.depth, ...judgedOf(expansion), reason };
      });
    return { ...problem, promptIds, steps, discarded, rollbacks: 0, finish: this.#finish(path) };
  }

  #release(nodes: readonly NodeNumber[]): void {
    this.#search.policy.engine.tree.release(nodes.filter((node) => this.#held.delete(node)));
  }

  #finish(path: Path): SearchTree['finish'] {
    if (path.ended) return 'eos';
    const full = fullness(this.#search, path.steps);
    if (full) return full;
    return this.#deadEnds.has(path) ? 'length' : 'max_steps';
  }
}

function lastOf({ last }: Path): Candidate | undefined {
  return last?.expansion.candidates[last.chosen];
}

function judgedOf({ candidates, verdicts, rounds }: Expansion) {
  return { candidates, verdicts, ...(rounds === undefined ? {} : { rounds }) };
}
