// The rollout engine's token tree: segments that stay while they are held, sampled from, scored and read in requests of
// many trees at once. Calls that make or release nodes return at once; a node that could not be made (a token out of range,
// a path too long) fails what uses it.

import { StepwardError } from '../errors.js';
import { callNative } from './call.js';
import { withSharedCancel } from './cancel.js';
import type { ForestData, NativeAddon, NativeHandle, RolloutCounters } from './contract.js';
import { nativeSampling } from './options.js';
import type { ForkRequest, ForkResult, NodeNumber, RequestOptions, TokenTreeLike } from './types.js';

export class TokenTree implements TokenTreeLike {
  readonly #addon: NativeAddon;
  readonly #engine: NativeHandle;
  readonly #eosIds: readonly number[];

  constructor(addon: NativeAddon, engine: NativeHandle, eosIds: readonly number[]) {
    this.#addon = addon;
    this.#engine = engine;
    this.#eosIds = eosIds;
  }

  /** The root with these ids. One that is there already is found again, with what was computed of it. */
  open(ids: ArrayLike<number>): NodeNumber {
    return this.plant(single(ids));
  }

  /** The segment with these ids after a node. */
  append(node: NodeNumber, ids: ArrayLike<number>): NodeNumber {
    return this.plant(single(ids), node);
  }

  /** Every segment of a forest, its roots below `parent` where that is given: segment s is node s + what is returned. */
  plant(forest: ForestData, parent: NodeNumber = 0): NodeNumber {
    return this.#addon.rolloutPlant(this.#engine, parent, forest);
  }

  /** Lets nodes go. What somebody else holds, or holds something below of, stays. */
  release(nodes: ArrayLike<NodeNumber>): void {
    this.#addon.rolloutRelease(this.#engine, Float64Array.from(nodes));
  }

  /** Keeps one candidate of a fork, or none, and releases the others. Throws INVALID_ARGUMENT for a node of another fork. */
  commit(node: NodeNumber | undefined, { firstNode, finish }: Pick<ForkResult, 'firstNode' | 'finish'>): void {
    const nodes = Array.from(finish, (_, i) => firstNode + i);
    if (node !== undefined && !nodes.includes(node)) {
      throw new StepwardError(
        'INVALID_ARGUMENT',
        `commit: expected a candidate of the fork (${firstNode} to ${firstNode + finish.length - 1}), got node ${node}`,
      );
    }
    this.release(nodes.filter((other) => other !== node));
  }

  /**
   * Samples after each of the nodes; candidates are nodes and are held. Row r = node * samples + sample is node
   * firstNode + r; tokens, logprobs, samplingLogprobs and logKept hold its values at [offsets[r], offsets[r + 1]), log-probs in
   * nats. Defaults as for Engine.generate. Rejects with CANCELLED, NUMERICAL (NaN logits), OUT_OF_MEMORY (a path longer
   * than the budget for keys and values holds), CONTEXT_TOO_LONG, HANDLE_INVALID, or why a node could not be made.
   */
  fork(nodes: ArrayLike<NodeNumber>, request: ForkRequest, options: RequestOptions = {}): Promise<ForkResult> {
    const native = {
      samples: 1,
      treeKeys: BigUint64Array.from({ length: nodes.length }, (_, i) => BigInt(i)),
      steps: new Int32Array(nodes.length),
      firstCandidate: 0,
      ...nativeSampling(request, this.#eosIds),
    };
    return this.#request(options, (token) =>
      this.#addon.rolloutFork(this.#engine, Float64Array.from(nodes), native, options.priority ?? 0, token),
    );
  }

  /** Log-probs [nodes, labels], in nats, of each label as the next token after each node. Rejects as fork does. */
  readout(nodes: ArrayLike<NodeNumber>, labels: Int32Array, options: RequestOptions = {}): Promise<Float32Array> {
    return this.#request(options, (token) =>
      this.#addon.rolloutReadout(this.#engine, Float64Array.from(nodes), labels, options.priority ?? 0, token),
    );
  }

  /** Log-probs, in nats, of every token of each suffix after the node; suffixes are computed anew and not kept. Rejects as fork does. */
  async score(
    node: NodeNumber,
    suffixes: readonly ArrayLike<number>[],
    options: RequestOptions = {},
  ): Promise<Float32Array[]> {
    const offsets = new Int32Array(suffixes.length + 1);
    for (const [i, ids] of suffixes.entries()) offsets[i + 1] = (offsets[i] as number) + ids.length;
    const tokens = new Int32Array(offsets[suffixes.length] as number);
    for (const [i, ids] of suffixes.entries()) tokens.set(tokenIds(ids), offsets[i]);
    const values = await this.#request(options, (token) =>
      this.#addon.rolloutScore(this.#engine, node, tokens, offsets, options.priority ?? 0, token),
    );
    return suffixes.map((_, i) => values.subarray(offsets[i], offsets[i + 1]));
  }

  /** Work done since the engine was loaded. */
  counters(): Promise<RolloutCounters> {
    return callNative(() => this.#addon.rolloutCounters(this.#engine));
  }

  #request<T>({ signal }: RequestOptions, run: (token: NativeHandle) => Promise<T>): Promise<T> {
    return callNative(() => withSharedCancel(this.#addon, signal, run));
  }
}

function single(ids: ArrayLike<number>): ForestData {
  const tokens = tokenIds(ids);
  return { tokens, offsets: Int32Array.of(0, tokens.length), parents: Int32Array.of(-1) };
}

/** Typed arrays wrap what does not fit; a wrapped id would be another token. */
function tokenIds(ids: ArrayLike<number>): Int32Array {
  const tokens = Int32Array.from(ids);
  const bad = tokens.findIndex((token, i) => token !== ids[i]);
  if (bad < 0) return tokens;
  throw new StepwardError('TOKEN_OUT_OF_RANGE', `ids[${bad}]: expected a token id, got ${ids[bad]}`);
}
