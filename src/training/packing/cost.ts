// Where sharing pays: an estimate of what a tree costs to train on, against chains of their own.

import type { ModelInfo } from '../../native/types.js';

export interface TreeShape {
  tokens: number;
  segments: number;
  /** (query, key) pairs of causal attention along the paths. */
  attended: number;
  /** A chain is attended to causally whatever runs it. */
  branches: boolean;
}

/** Cost of a tree; only ratios mean something. */
export type TreeCost = (shape: TreeShape) => number;

/** What a segment costs beside its tokens, in tokens: a short last tile, a gather of its ancestors' keys. A rough price. */
const SEGMENT = 4;

/**
 * Forward and backward, in FLOPs over 12 * hidden * layers. A layer has about 12 * hidden^2 weights, at 6 FLOPs a token
 * (Kaplan et al., arXiv 2001.08361, table 1); an attended pair costs 4 * hidden forward and twice that backward. float32 on
 * the CPU and bfloat16 on a GPU attend to the pairs that there are; else a branching tree runs with a mask over all of its
 * tokens.
 */
export function costOf(info: Pick<ModelInfo, 'hiddenSize' | 'device' | 'dtype'>): TreeCost {
  const exact = info.device === 'cpu' ? info.dtype === 'float32' : info.dtype === 'bfloat16';
  const token = 6 * info.hiddenSize;
  return ({ tokens, segments, attended, branches }) =>
    token * (tokens + SEGMENT * segments) + (exact || !branches ? attended : tokens * tokens);
}

/** Whatever it costs: every token that can be shared is. */
const FEWEST_TOKENS: TreeCost = ({ tokens }) => tokens;

/** What decides for each way of sharing; undefined: nothing is shared. */
export function sharingCost(
  sharing: 'auto' | 'on' | 'off',
  info: Pick<ModelInfo, 'hiddenSize' | 'device' | 'dtype'>,
): TreeCost | undefined {
  if (sharing === 'off') return undefined;
  return sharing === 'on' ? FEWEST_TOKENS : costOf(info);
}
