// What a search is told, and what a strategy is given of it: one problem, with everything needed to grow its tree.

import type { JudgeConfig, SearchConfig, SelectConfig } from '../config/recipe.js';
import type { NodeNumber } from '../native/types.js';
import type { Policy } from './policy.js';
import type { Problem } from './records.js';
import type { SearchCounts, SearchTree } from './types.js';

export interface SearchProgress {
  /** Problems whose search is over, of how many. */
  done: number;
  problems: number;
  /** Problems being searched now. */
  open: number;
  /** Steps sampled and judged so far. */
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

export interface ProblemSearch {
  policy: Policy;
  options: SearchOptions;
  /** Shared by all problems. */
  counts: SearchCounts;
  problem: Problem;
  promptIds: number[];
  /** Random stream of the problem. */
  key: bigint;
  /** Lower for earlier problems: the engine finishes those first. */
  priority: number;
  /** After each step that was sampled and judged. */
  onStep(): void;
}

/** A solution so far: the engine's node at its end, and the ids of each of its steps. */
export interface PartialSolution {
  node: NodeNumber;
  steps: readonly (readonly number[])[];
}

/** Grows the tree of one problem. It must not depend on the other problems, and leaves no node held. */
export type Strategy = (search: ProblemSearch) => Promise<SearchTree>;

/** The engine's node of the prompt, below a header that all problems share. */
export function openPrompt({ policy, promptIds }: ProblemSearch): NodeNumber {
  const { tree } = policy.engine;
  const [first, ...rest] = policy.prompts.solveParts(promptIds);
  let node = tree.open(first as number[]);
  for (const part of rest) {
    const above = node;
    node = tree.append(above, part);
    tree.release([above]); // what lies below keeps it
  }
  return node;
}

/** Tokens of the prompt and the steps after it. */
export function lengthOf({ promptIds }: ProblemSearch, steps: PartialSolution['steps']): number {
  return steps.reduce((sum, ids) => sum + ids.length, promptIds.length);
}

/** Why a solution cannot go on after these steps; undefined where it can. */
export function fullness(search: ProblemSearch, steps: PartialSolution['steps']): 'length' | 'max_steps' | undefined {
  if (lengthOf(search, steps) >= search.policy.engine.info.maxPositions) return 'length';
  return steps.length >= search.options.search.max_steps ? 'max_steps' : undefined;
}
