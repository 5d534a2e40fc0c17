// Chooses the trees worth looking at from a whole search, in one pass and holding few of them: of each kind (right or
// wrong, with pairs, taken back) those in which most happened.

import type { SearchRecord } from '../loop/search-record.js';
import { countFlips } from './compare.js';

export const TREES_PER_MODEL = 12;

export interface PickedTrees {
  /** The most interesting kinds take turns. */
  trees: SearchRecord[];
  /** In the whole search. */
  total: number;
  /** Accepted steps by outcome: pair, unanimous, margin, cap. */
  outcomes: Map<string, number>;
  /** Candidates that differ, over all steps. */
  distinct: number;
}

/** In the order in which they take turns. */
const KINDS = ['right pair', 'wrong pair', 'right back', 'wrong back', 'unknown pair', 'unknown back'];
const PLAIN = ['right plain', 'wrong plain', 'unknown plain'];

interface Ranked {
  tree: SearchRecord;
  score: number;
}

export class TreePicker {
  readonly #best = new Map<string, Ranked[]>();
  readonly #outcomes = new Map<string, number>();
  #total = 0;
  #distinct = 0;

  /** false where the value is no tree. */
  add(value: object): boolean {
    if (!isTree(value)) return false;
    this.#total++;
    for (const { outcome, candidates } of value.steps) {
      this.#outcomes.set(outcome, (this.#outcomes.get(outcome) ?? 0) + 1);
      this.#distinct += candidates.length;
    }
    const ranked = this.#best.get(kindOf(value)) ?? [];
    this.#best.set(kindOf(value), ranked);
    ranked.push({ tree: value, score: scoreOf(value) });
    // A stable sort: among equals the earlier line stays.
    ranked.sort((a, b) => b.score - a.score).splice(TREES_PER_MODEL);
    return true;
  }

  picked(): PickedTrees {
    const rest = KINDS.map((kind) => [...(this.#best.get(kind) ?? [])]);
    const plain = PLAIN.flatMap((kind) => this.#best.get(kind) ?? []);
    const trees: SearchRecord[] = [];
    while (trees.length < TREES_PER_MODEL && rest.some((kind) => kind.length > 0)) {
      for (const kind of rest) {
        const next = kind.shift();
        if (next && trees.length < TREES_PER_MODEL) trees.push(next.tree);
      }
    }
    for (const { tree } of plain) if (trees.length < TREES_PER_MODEL) trees.push(tree);
    return { trees, total: this.#total, outcomes: this.#outcomes, distinct: this.#distinct };
  }
}

function kindOf(tree: SearchRecord): string {
  const right = tree.correct === undefined ? 'unknown' : tree.correct ? 'right' : 'wrong';
  if (tree.rollbacks > 0) return `${right} back`;
  return `${right} ${pairsOf(tree) > 0 ? 'pair' : 'plain'}`;
}

function scoreOf(tree: SearchRecord): number {
  return 2 * pairsOf(tree) + flipsOf(tree) + tree.rollbacks;
}

/** Steps with a chosen and a rejected candidate. */
export function pairsOf({ steps }: SearchRecord): number {
  return steps.filter(({ rejected }) => isIndex(rejected)).length;
}

/** Pairs of candidates whose two orders disagree, in what was taken back too. */
export function flipsOf({ steps, discarded }: SearchRecord): number {
  return [...steps, ...(discarded ?? [])].reduce((sum, { verdicts }) => sum + countFlips(verdicts), 0);
}

function isIndex(value: number | null | undefined): value is number {
  return value !== null && value !== undefined;
}

function isTree(value: object): value is SearchRecord {
  const { id, problem, steps, discarded } = value as Partial<SearchRecord>;
  const whole = (step: Partial<SearchRecord['steps'][number]> | null) =>
    Array.isArray(step?.candidates) &&
    step.candidates.every((candidate) => typeof candidate?.text === 'string') &&
    Array.isArray(step.verdicts) &&
    step.verdicts.every((verdict) => isIndex(verdict?.first) && isIndex(verdict.second));
  return (
    typeof id === 'string' &&
    typeof problem === 'string' &&
    Array.isArray(steps) &&
    steps.every(whole) &&
    (discarded === undefined || (Array.isArray(discarded) && discarded.every(whole)))
  );
}
