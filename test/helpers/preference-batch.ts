// Preference trees as batches for a Trainer: packed as trees, or every completion by itself on a copy of its path.

import { ForestBuilder } from '../../src/data/forest.js';
import type { PreferenceBatch } from '../../src/native/types.js';
import type { GoldenTree, PreferenceSettings } from './goldens.js';

interface Completion {
  path: number[];
  ids: number[];
}

export interface Unpacked {
  completions: Completion[];
  pairs: { chosen: number; rejected: number; weight: number; mix?: number }[];
}

/** Completions numbered tree by tree, step by step: the chosen step, then its rejected ones. */
export function unpack(trees: GoldenTree[]): Unpacked {
  const unpacked: Unpacked = { completions: [], pairs: [] };
  for (const tree of trees) {
    let path = tree.prompt_ids;
    for (const step of tree.steps) {
      if (step.rejected.length > 0) {
        const chosen = unpacked.completions.push({ path, ids: step.chosen_ids }) - 1;
        for (const { ids, weight = 1, mix } of step.rejected) {
          const rejected = unpacked.completions.push({ path, ids }) - 1;
          unpacked.pairs.push({ chosen, rejected, weight, ...(mix !== undefined && { mix }) });
        }
      }
      path = [...path, ...step.chosen_ids];
    }
  }
  return unpacked;
}

const tokenNorm = ({ completions, pairs }: Unpacked) =>
  pairs.reduce((sum, { chosen }) => sum + completions[chosen]!.ids.length, 0);

function batch(
  builder: ForestBuilder,
  handles: number[],
  { pairs }: Unpacked,
  reference: ArrayLike<number>,
  settings: PreferenceSettings,
  norms: { pairs: number; tokens: number },
): PreferenceBatch {
  const { forest, segments } = builder.build();
  const mixed = settings.mix !== undefined || pairs.some(({ mix }) => mix !== undefined);
  return {
    forest,
    completionOffsets: Int32Array.from({ length: handles.length + 1 }, (_, i) => i),
    completionSegments: Int32Array.from(handles, (handle) => segments[handle]!),
    chosen: Int32Array.from(pairs, (pair) => pair.chosen),
    rejected: Int32Array.from(pairs, (pair) => pair.rejected),
    weight: Float32Array.from(pairs, (pair) => pair.weight),
    reference: Float64Array.from(reference),
    ...(mixed && { mix: Float32Array.from(pairs, ({ mix }) => mix ?? settings.mix ?? 1) }),
    loss: settings.loss,
    beta: settings.beta,
    labelSmoothing: settings.label_smoothing,
    gamma: settings.gamma ?? 0,
    sftWeight: settings.sft_weight,
    pairNorm: norms.pairs,
    tokenNorm: norms.tokens,
  };
}

/** All trees in one forest, each trunk once. `reference` is by completion, in unpack()'s order. */
export function packedBatch(
  trees: GoldenTree[],
  settings: PreferenceSettings,
  reference: ArrayLike<number>,
): PreferenceBatch {
  const builder = new ForestBuilder();
  const handles: number[] = [];
  for (const tree of trees) {
    let trunk = builder.root(tree.prompt_ids);
    for (const step of tree.steps) {
      const chosen = builder.child(trunk, step.chosen_ids);
      if (step.rejected.length > 0) handles.push(chosen, ...step.rejected.map(({ ids }) => builder.child(trunk, ids)));
      trunk = chosen;
    }
  }
  const unpacked = unpack(trees);
  return batch(builder, handles, unpacked, reference, settings, {
    pairs: unpacked.pairs.length,
    tokens: tokenNorm(unpacked),
  });
}

/** One batch per pair; in each, chosen and rejected stand in trees of their own, so nothing is shared. */
export function pairBatches(
  trees: GoldenTree[],
  settings: PreferenceSettings,
  reference: ArrayLike<number>,
): PreferenceBatch[] {
  const unpacked = unpack(trees);
  const norms = { pairs: unpacked.pairs.length, tokens: tokenNorm(unpacked) };
  return unpacked.pairs.map(({ chosen, rejected, ...shares }) => {
    const builder = new ForestBuilder();
    const completions = [unpacked.completions[chosen]!, unpacked.completions[rejected]!];
    const handles = completions.map(({ path, ids }) => builder.child(builder.root(path), ids));
    const pair = { completions, pairs: [{ chosen: 0, rejected: 1, ...shares }] };
    return batch(builder, handles, pair, [reference[chosen]!, reference[rejected]!], settings, norms);
  });
}
