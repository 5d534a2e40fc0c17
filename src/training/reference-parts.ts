// A micro-batch as the parts whose reference log-probs do not depend on each other, and micro-batches of some of them.

import type { Completions } from '../native/types.js';

/** A micro-batch of its own, and which completions of the whole it holds, in order. */
export interface ReferencePart {
  packed: Completions;
  completions: number[];
}

/** The whole as its only part. */
export function wholePart(packed: Completions): ReferencePart {
  return { packed, completions: Array.from({ length: packed.completionOffsets.length - 1 }, (_, c) => c) };
}

/** Tree by tree. A completion without segments, whose log-prob is 0, goes with the first. */
export function treeParts(packed: Completions): ReferencePart[] {
  const { tokens, offsets, parents } = packed.forest;
  const first = [...parents.keys()].filter((segment) => (parents[segment] as number) < 0);
  const treeOf = new Int32Array(parents.length);
  for (const [tree, root] of first.entries()) treeOf.fill(tree, root);
  const completions: number[][] = first.map(() => []);
  for (let c = 0; c + 1 < packed.completionOffsets.length; c++) {
    const [segment] = segmentsOf(packed, c);
    completions[segment === undefined ? 0 : (treeOf[segment] as number)]?.push(c);
  }
  return first.map((root, tree) => {
    const end = first[tree + 1] ?? parents.length;
    const token = offsets[root] as number;
    const members = completions[tree] as number[];
    const segments = members.map((c) => segmentsOf(packed, c).map((segment) => segment - root));
    const forest = {
      tokens: tokens.slice(token, offsets[end]),
      offsets: offsets.slice(root, end + 1).map((offset) => offset - token),
      parents: parents.slice(root, end).map((parent) => (parent < 0 ? -1 : parent - root)),
    };
    return { packed: { forest, ...completionsOf(segments) }, completions: members };
  });
}

/** One micro-batch of several parts, their completions one after the other. */
export function joinParts(parts: ReferencePart[]): Completions {
  if (parts.length === 1) return (parts[0] as ReferencePart).packed;
  const tokens: Int32Array[] = [];
  const offsets: number[] = [0];
  const parents: number[] = [];
  const segments: number[][] = [];
  for (const { packed, completions } of parts) {
    const { forest } = packed;
    const [token, segment] = [offsets.at(-1) as number, parents.length];
    tokens.push(forest.tokens);
    for (const offset of forest.offsets.subarray(1)) offsets.push(offset + token);
    for (const parent of forest.parents) parents.push(parent < 0 ? -1 : parent + segment);
    for (const c of completions.keys()) segments.push(segmentsOf(packed, c).map((own) => own + segment));
  }
  const forest = {
    tokens: new Int32Array(offsets.at(-1) as number),
    offsets: Int32Array.from(offsets),
    parents: Int32Array.from(parents),
  };
  let at = 0;
  for (const part of tokens) {
    forest.tokens.set(part, at);
    at += part.length;
  }
  return { forest, ...completionsOf(segments) };
}

function segmentsOf({ completionOffsets, completionSegments }: Completions, completion: number): number[] {
  return [...completionSegments.subarray(completionOffsets[completion], completionOffsets[completion + 1])];
}

function completionsOf(segments: number[][]): Omit<Completions, 'forest'> {
  const completionOffsets = new Int32Array(segments.length + 1);
  for (const [c, own] of segments.entries()) completionOffsets[c + 1] = (completionOffsets[c] as number) + own.length;
  return { completionOffsets, completionSegments: Int32Array.from(segments.flat()) };
}
