// Builds ForestData, the flat form of token trees that the engine takes. ForestBuilder takes segments as they are
// given; PathForest takes paths cut into segments and shares equal beginnings; PrefixForest takes whole sequences and
// finds their common prefixes. None checks token ids: the engine does.

import { StepwardError } from '../errors.js';
import type { ForestData } from '../native/contract.js';

/** Trees grown segment by segment, in any order. */
export class ForestBuilder {
  readonly #ids: Int32Array[] = [];
  readonly #parents: number[] = [];

  /** A new tree; the handle of its root segment. */
  root(ids: ArrayLike<number>): number {
    return this.#push(-1, ids);
  }

  /** A segment after `parent`; its handle. */
  child(parent: number, ids: ArrayLike<number>): number {
    if (!Number.isInteger(parent) || parent < 0 || parent >= this.#ids.length) {
      throw new StepwardError('INVALID_ARGUMENT', `parent: expected a handle below ${this.#ids.length}, got ${parent}`);
    }
    return this.#push(parent, ids);
  }

  get size(): number {
    return this.#ids.length;
  }

  /** `segments[handle]` is the segment's index in the forest: the segments of each tree are made contiguous. */
  build(): { forest: ForestData; segments: Int32Array } {
    const count = this.#ids.length;
    const tree = new Int32Array(count);
    const treeSize: number[] = [];
    for (let handle = 0; handle < count; handle++) {
      const parent = this.#parents[handle] as number;
      tree[handle] = parent < 0 ? treeSize.push(0) - 1 : (tree[parent] as number);
      treeSize[tree[handle] as number] = (treeSize[tree[handle] as number] as number) + 1;
    }
    const next = new Int32Array(treeSize.length);
    for (let t = 1; t < treeSize.length; t++) next[t] = (next[t - 1] as number) + (treeSize[t - 1] as number);
    const segments = new Int32Array(count);
    const order = new Int32Array(count);
    for (let handle = 0; handle < count; handle++) {
      const index = next[tree[handle] as number] as number;
      next[tree[handle] as number] = index + 1;
      segments[handle] = index;
      order[index] = handle;
    }
    const ids = Array.from(order, (handle) => this.#ids[handle] as Int32Array);
    const parents = Array.from(order, (handle) => {
      const parent = this.#parents[handle] as number;
      return parent < 0 ? -1 : (segments[parent] as number);
    });
    return { forest: layOut(ids, parents), segments };
  }

  #push(parent: number, ids: ArrayLike<number>): number {
    this.#parents.push(parent);
    return this.#ids.push(Int32Array.from(ids)) - 1;
  }
}

interface PathNode {
  handle: number;
  children: Map<string, PathNode>;
}

/**
 * Paths cut into segments by the caller; paths that start with equal segments share them. The cuts stay as they are given,
 * so that what a path looks like does not depend on the others.
 */
export class PathForest {
  readonly #builder = new ForestBuilder();
  readonly #roots = new Map<string, PathNode>();
  readonly #ends: number[] = [];

  /** Adds a path of at least one segment, none of them empty; its handle. */
  add(segments: readonly (readonly number[])[]): number {
    let siblings = this.#roots;
    let node: PathNode | undefined;
    for (const ids of segments) {
      const key = ids.join();
      let next = siblings.get(key);
      if (!next) {
        next = { handle: node ? this.#builder.child(node.handle, ids) : this.#builder.root(ids), children: new Map() };
        siblings.set(key, next);
      }
      node = next;
      siblings = next.children;
    }
    if (!node) throw new StepwardError('INVALID_ARGUMENT', 'a path needs at least one segment, got none');
    return this.#ends.push(node.handle) - 1;
  }

  /** `nodes[handle]` is the segment at whose end that path ends. */
  build(): { forest: ForestData; nodes: Int32Array } {
    const { forest, segments } = this.#builder.build();
    return { forest, nodes: Int32Array.from(this.#ends, (handle) => segments[handle] as number) };
  }
}

/** Segments in their final order, each with its tokens and its parent's index, laid end to end. */
function layOut(ids: readonly Int32Array[], parents: readonly number[]): ForestData {
  const offsets = new Int32Array(ids.length + 1);
  for (const [s, own] of ids.entries()) offsets[s + 1] = (offsets[s] as number) + own.length;
  const tokens = new Int32Array(offsets[ids.length] as number);
  for (const [s, own] of ids.entries()) tokens.set(own, offsets[s]);
  return { tokens, offsets, parents: Int32Array.from(parents) };
}

/** One edge of the radix tree with its tokens. */
class RadixNode {
  readonly children = new Map<number, RadixNode>();

  /** `length`: tokens from the root to the end of this edge; a split leaves it as it is. */
  constructor(
    public ids: Int32Array,
    public parent: RadixNode | undefined,
    readonly length: number,
  ) {}
}

/** A place where an inserted sequence ends. Stays valid while the tree grows. */
export type RadixEnd = RadixNode;

/** Token sequences stored as a radix tree: one tree per key, each distinct prefix once. */
export class RadixForest {
  readonly #trees = new Map<number | string, Map<number, RadixNode>>();
  #tokens = 0;
  #segments = 0;
  #attended = 0;

  /** Tokens stored so far: what a forward pass over the forest computes. */
  get tokens(): number {
    return this.#tokens;
  }

  get segments(): number {
    return this.#segments;
  }

  /** (query, key) pairs of causal attention: each token sees itself and all before it on its path. */
  get attended(): number {
    return this.#attended;
  }

  /**
   * Inserts the sequence `ids` under `tree`, or after `from` where that is given (then `tree` is not read); where it
   * ends. The end is always the end of a segment. An empty sequence after `from` ends at `from`.
   */
  insert(ids: ArrayLike<number>, tree: number | string, from?: RadixEnd): RadixEnd {
    let siblings = from?.children ?? this.#trees.get(tree);
    if (!siblings) {
      siblings = new Map();
      this.#trees.set(tree, siblings);
    }
    let node = from;
    for (let i = 0; i < ids.length; ) {
      const next: RadixNode | undefined = siblings.get(ids[i] as number);
      if (!next) {
        const own = Int32Array.from(ids).subarray(i);
        const before = node?.length ?? 0;
        const leaf = new RadixNode(own, node, before + own.length);
        siblings.set(own[0] as number, leaf);
        this.#tokens += own.length;
        this.#segments++;
        this.#attended += own.length * before + (own.length * (own.length + 1)) / 2;
        return leaf;
      }
      let shared = 1;
      while (shared < next.ids.length && i + shared < ids.length && next.ids[shared] === ids[i + shared]) shared++;
      if (shared < next.ids.length) this.#segments++;
      node = shared === next.ids.length ? next : splitAt(next, shared, siblings);
      siblings = node.children;
      i += shared;
    }
    if (!node) throw new StepwardError('INVALID_ARGUMENT', 'a sequence needs at least one token, got none');
    return node;
  }

  /**
   * The forest, and where each node went. Trees and siblings keep the order in which they were first given. `trunkFirst`:
   * of siblings the one with the most tokens below comes first, so that a long path stands in one piece.
   */
  build(options: { trunkFirst?: boolean } = {}): { forest: ForestData; indexOf: Map<RadixEnd, number> } {
    const below = options.trunkFirst ? this.#tokensBelow() : undefined;
    const indexOf = new Map<RadixEnd, number>();
    const nodes: RadixNode[] = [];
    for (const roots of this.#trees.values()) {
      for (const root of roots.values()) {
        const open = [root];
        for (let node = open.pop(); node; node = open.pop()) {
          indexOf.set(node, nodes.push(node) - 1);
          const children = [...node.children.values()];
          if (below) children.sort((a, b) => (below.get(b) as number) - (below.get(a) as number));
          open.push(...children.reverse());
        }
      }
    }
    const ids = nodes.map((node) => node.ids);
    const parents = nodes.map(({ parent }) => (parent ? (indexOf.get(parent) as number) : -1));
    return { forest: layOut(ids, parents), indexOf };
  }

  /** Of every node, its own tokens and those of all nodes below it. */
  #tokensBelow(): Map<RadixNode, number> {
    const order = [...this.#trees.values()].flatMap((roots) => [...roots.values()]);
    for (let i = 0; i < order.length; i++) order.push(...(order[i] as RadixNode).children.values());
    const below = new Map(order.map((node) => [node, node.ids.length]));
    for (const node of order.reverse()) {
      if (node.parent) below.set(node.parent, (below.get(node.parent) as number) + (below.get(node) as number));
    }
    return below;
  }

  /** Segments on the way from `from` (left out; undefined: from the root) to `end`, outermost first. */
  static path(end: RadixEnd, from?: RadixEnd): RadixEnd[] {
    const path: RadixNode[] = [];
    for (let node: RadixNode | undefined = end; node && node !== from; node = node.parent) path.push(node);
    return path.reverse();
  }
}

/** Puts a new node above `node` that takes its first `count` tokens. `node` keeps its end, so handles stay valid. */
function splitAt(node: RadixNode, count: number, siblings: Map<number, RadixNode>): RadixNode {
  const upper = new RadixNode(node.ids.slice(0, count), node.parent, node.length - node.ids.length + count);
  node.ids = node.ids.slice(count);
  node.parent = upper;
  upper.children.set(node.ids[0] as number, node);
  siblings.set(upper.ids[0] as number, upper);
  return upper;
}

/**
 * Whole sequences in, shared prefixes found token by token: sequences of the same `tree` share their longest common
 * prefixes, sequences of different ones never share.
 */
export class PrefixForest {
  readonly #radix = new RadixForest();
  readonly #ends: RadixEnd[] = [];

  /** Adds a sequence of at least one token; its handle. */
  add(ids: ArrayLike<number>, tree: number | string = 0): number {
    return this.#ends.push(this.#radix.insert(ids, tree)) - 1;
  }

  get tokens(): number {
    return this.#radix.tokens;
  }

  /** `nodes[handle]` is the segment at whose end that sequence ends. */
  build(): { forest: ForestData; nodes: Int32Array } {
    const { forest, indexOf } = this.#radix.build();
    return { forest, nodes: Int32Array.from(this.#ends, (end) => indexOf.get(end) as number) };
  }
}
