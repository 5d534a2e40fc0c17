// An engine without a model: a function from prompt text and a seeded random stream to the text that follows. Its rows
// depend on seed, tree key, step and candidate alone, as the real engine's do, and its counts are counted, not made up.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { StepwardError } from '../../src/errors.js';
import type { ForestData, TrainingMemory } from '../../src/native/contract.js';
import type {
  Completions,
  CompletionValues,
  EngineLike,
  ForkRequest,
  ForkResult,
  GenerateRequest,
  GenerateResult,
  ModelInfo,
  NodeNumber,
  PreferenceBatch,
  PreferenceResult,
  ReadoutResult,
  RequestOptions,
  RolloutCounters,
  ScoreResult,
  SftBatch,
  SftResult,
  TokenTreeLike,
  TrainerLike,
} from '../../src/native/types.js';
import { deriveSeed, randomNumbers } from '../../src/random.js';
import { CharacterCodec, EOS } from './fake-codec.js';

export interface Draw {
  /** In [0, 1), from the row's own stream. */
  random: () => number;
  temperature: number;
  /** Optimiser steps taken so far. */
  skill: number;
}

/** What follows a prompt. A text that ends the solution ends with EOS_MARK. */
export type Respond = (prompt: string, draw: Draw) => string;
export const EOS_MARK = '\u0001';

export interface FakeOptions {
  respond: Respond;
  /** Log-probs of the labels after a prompt, for readout. */
  labels?: (prompt: string) => number[];
  maxPositions?: number;
  skill?: number;
  /** Raw log-prob of each token sampled. Default -0.25. */
  tokenLogprob?: number;
}

export class FakeEngine implements EngineLike {
  readonly info: ModelInfo;
  readonly codec = new CharacterCodec();
  readonly tree = new FakeTree(this);
  /** Every generate request and every fork, in order. */
  readonly requests: (GenerateRequest | ForkRequest)[] = [];
  readouts = 0;
  disposed = false;
  skill: number;

  constructor(readonly options: FakeOptions) {
    this.skill = options.skill ?? 0;
    this.info = {
      family: 'llama',
      vocabSize: 128,
      hiddenSize: 1,
      numLayers: 1,
      maxPositions: options.maxPositions ?? 100_000,
      parameters: 1,
      eosIds: [EOS],
      device: 'cpu',
      dtype: 'float32',
    };
  }

  /** A folder written by save(). */
  static load(directory: string, options: FakeOptions): FakeEngine {
    const { skill } = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as { skill: number };
    return new FakeEngine({ ...options, skill });
  }

  async setTokenBytes(): Promise<void> {}

  async generate(
    request: GenerateRequest,
    options: { signal?: AbortSignal; onProgress?: (rowsDone: number) => void } = {},
  ): Promise<GenerateResult> {
    if (options.signal?.aborted) throw new StepwardError('CANCELLED', 'the work was cancelled');
    this.requests.push(request);
    const { forest, nodes, samples = 1, seed = 0, temperature = 1, maxNewTokens = 256, stop = [] } = request;
    const tokens: number[] = [];
    const offsets = [0];
    const finish: number[] = [];
    let prefixFreeTokens = 0;
    for (const [n, node] of nodes.entries()) {
      const prompt = pathIds(forest, node);
      for (let s = 0; s < samples; s++) {
        prefixFreeTokens += prompt.length;
        const stream = [request.treeKeys?.[n]?.toString() ?? String(n), request.steps?.[n] ?? 0, s];
        const random = randomNumbers(deriveSeed(seed, ...stream));
        const text = this.options.respond(this.codec.decode(prompt), { random, temperature, skill: this.skill });
        const row = cutRow(this.codec.encode(text), stop, maxNewTokens, this.codec);
        tokens.push(...row.ids);
        offsets.push(tokens.length);
        finish.push(row.finish);
      }
    }
    options.onProgress?.(finish.length);
    const logprobs = new Float32Array(tokens.length).fill(this.options.tokenLogprob ?? -0.25);
    return {
      tokens: Int32Array.from(tokens),
      offsets: Int32Array.from(offsets),
      logprobs,
      samplingLogprobs: logprobs,
      logKept: new Float32Array(tokens.length),
      finish: Uint8Array.from(finish),
      computedTokens: forest.tokens.length,
      prefixFreeTokens,
    };
  }

  async readout(forest: ForestData, nodes: Int32Array, labels: Int32Array): Promise<ReadoutResult> {
    this.readouts++;
    const prompts = Array.from(nodes, (node) => pathIds(forest, node));
    const { labels: read } = this.options;
    if (!read) throw new Error('this fake engine has no labels');
    const logprobs = prompts.flatMap((prompt) => read(this.codec.decode(prompt)).slice(0, labels.length));
    const prefixFreeTokens = prompts.reduce((sum, prompt) => sum + prompt.length, 0);
    return { logprobs: Float32Array.from(logprobs), computedTokens: forest.tokens.length, prefixFreeTokens };
  }

  async score(forest: ForestData, scored: Uint8Array): Promise<ScoreResult> {
    const logprobs = new Float32Array(forest.tokens.length).fill(Number.NaN);
    for (const [s, wanted] of scored.entries())
      if (wanted) logprobs.fill(-0.25, forest.offsets[s], forest.offsets[s + 1]);
    return { logprobs, computedTokens: forest.tokens.length };
  }

  async save(directory: string): Promise<void> {
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, 'config.json'), JSON.stringify({ skill: this.skill }));
  }

  async weightsHash(): Promise<string> {
    return String(this.skill);
  }

  async createTrainer(): Promise<TrainerLike> {
    return new FakeTrainer(this);
  }

  async dispose(): Promise<void> {
    this.disposed = true;
  }
}

/** Nodes are their whole paths; each distinct path is computed once. */
class FakeTree implements TokenTreeLike {
  readonly #nodes = new Map<NodeNumber, number[]>();
  readonly #computed = new Set<string>();
  #last = 0;
  #counts = { computed: 0, prefixFree: 0, sampled: 0 };

  constructor(readonly engine: FakeEngine) {}

  /** Nodes that are held. */
  get held(): number {
    return this.#nodes.size;
  }

  open(ids: ArrayLike<number>): NodeNumber {
    return this.#add(Array.from(ids));
  }

  append(node: NodeNumber, ids: ArrayLike<number>): NodeNumber {
    return this.#add([...this.#path(node), ...Array.from(ids)]);
  }

  plant(forest: ForestData, parent?: NodeNumber): NodeNumber {
    const above = parent ? this.#path(parent) : [];
    const numbers = Array.from(forest.parents, (_, s) => this.#add([...above, ...pathIds(forest, s)]));
    return numbers[0] as number;
  }

  release(nodes: ArrayLike<NodeNumber>): void {
    for (const node of Array.from(nodes)) {
      if (!this.#nodes.delete(node)) throw new Error(`node ${node} was not held`);
    }
  }

  commit(node: NodeNumber | undefined, { firstNode, finish }: Pick<ForkResult, 'firstNode' | 'finish'>): void {
    this.release(Array.from(finish, (_, i) => firstNode + i).filter((other) => other !== node));
  }

  async fork(nodes: ArrayLike<NodeNumber>, request: ForkRequest, { signal }: RequestOptions = {}): Promise<ForkResult> {
    const paths = Array.from(nodes, (node) => this.#compute(node, request.samples ?? 1));
    const tokens = paths.flat();
    const offsets = [0];
    for (const path of paths) offsets.push((offsets.at(-1) as number) + path.length);
    const forest = {
      tokens: Int32Array.from(tokens),
      offsets: Int32Array.from(offsets),
      parents: new Int32Array(paths.length).fill(-1),
    };
    const all = { ...request, forest, nodes: Int32Array.from(paths.keys()) };
    const result = await this.engine.generate(all, signal ? { signal } : {});
    const samples = request.samples ?? 1;
    const rows = Array.from(result.finish, (_, row) => {
      const ids = Array.from(result.tokens.subarray(result.offsets[row], result.offsets[row + 1]));
      return this.#add([...(paths[Math.floor(row / samples)] as number[]), ...ids]);
    });
    this.#counts.sampled += result.tokens.length;
    return { ...result, firstNode: rows[0] as number };
  }

  async readout(nodes: ArrayLike<NodeNumber>, labels: Int32Array): Promise<Float32Array> {
    this.engine.readouts++;
    const { labels: read } = this.engine.options;
    if (!read) throw new Error('this fake engine has no labels');
    const paths = Array.from(nodes, (node) => this.#compute(node, 1));
    return Float32Array.from(paths.flatMap((path) => read(this.engine.codec.decode(path)).slice(0, labels.length)));
  }

  async score(_node: NodeNumber, suffixes: readonly ArrayLike<number>[]): Promise<Float32Array[]> {
    return suffixes.map((ids) => new Float32Array(ids.length).fill(-0.25));
  }

  async counters(): Promise<RolloutCounters> {
    return {
      promptTokensComputed: this.#counts.computed,
      promptTokensPrefixFree: this.#counts.prefixFree,
      sampledTokens: this.#counts.sampled,
      evictedTokens: 0,
      lookups: 0,
      hits: 0,
      steps: 0,
      decodeSteps: 0,
      decodeRows: 0,
      prefillSeconds: 0,
      decodeSeconds: 0,
      peakKvBytes: 0,
      liveSegments: this.held,
      cachedSegments: 0,
    };
  }

  #add(path: number[]): NodeNumber {
    this.#nodes.set(++this.#last, path);
    return this.#last;
  }

  #path(node: NodeNumber): number[] {
    const path = this.#nodes.get(node);
    if (!path) throw new Error(`node ${node} is not held`);
    return path;
  }

  #compute(node: NodeNumber, rows: number): number[] {
    const path = this.#path(node);
    this.#counts.prefixFree += rows * path.length;
    for (let end = path.length; end > 0; end--) {
      const key = path.slice(0, end).join();
      if (this.#computed.has(key)) break;
      this.#computed.add(key);
      this.#counts.computed++;
    }
    return path;
  }
}

/** Each apply() is one more point of skill; every log-prob is -0.25 a token, whatever was learnt. */
class FakeTrainer implements TrainerLike {
  constructor(readonly engine: FakeEngine) {}

  async accumulatePreference(batch: PreferenceBatch): Promise<PreferenceResult> {
    const pairs = batch.chosen.length;
    return {
      loss: (Math.LN2 * pairs) / batch.pairNorm,
      sftLoss: 0,
      completionLogprobs: completionLogprobs(batch),
      pairLoss: new Float32Array(pairs).fill(Math.LN2),
      computedTokens: batch.forest.tokens.length,
    };
  }

  async accumulateSft(batch: SftBatch): Promise<SftResult> {
    return { loss: 1, scoredTokens: batch.forest.tokens.length, computedTokens: batch.forest.tokens.length };
  }

  async forwardPreference(completions: Completions): Promise<CompletionValues> {
    return {
      logprobs: completionLogprobs(completions),
      lengths: completionLengths(completions),
      computedTokens: completions.forest.tokens.length,
    };
  }

  async referenceLogprobs(completions: Completions): Promise<Float64Array> {
    return completionLogprobs(completions);
  }

  async apply(): Promise<number> {
    this.engine.skill++;
    return 1;
  }

  async backwardPreference(): Promise<void> {}
  async memory(): Promise<TrainingMemory> {
    return { base: 0, gradients: 0, optimizer: 0, activations: 0, workspace: 0, total: 0, resident: 0, available: -1 };
  }

  async setCheckpointLayers(): Promise<void> {}

  async zeroGrad(): Promise<void> {}
  async saveAdapter(): Promise<void> {}
  async mergeAdapter(): Promise<void> {}
  async saveState(): Promise<void> {}
  async loadState(): Promise<void> {}
  async dispose(): Promise<void> {}
}

function completionLengths({ forest, completionOffsets, completionSegments }: Completions): Int32Array {
  return Int32Array.from({ length: completionOffsets.length - 1 }, (_, c) =>
    completionSegments
      .subarray(completionOffsets[c], completionOffsets[c + 1])
      .reduce((sum, s) => sum + (forest.offsets[s + 1] as number) - (forest.offsets[s] as number), 0),
  );
}

function completionLogprobs(completions: Completions): Float64Array {
  return Float64Array.from(completionLengths(completions), (length) => -0.25 * length);
}

/** Ids from the root to the end of a segment. */
export function pathIds({ tokens, offsets, parents }: ForestData, segment: number): number[] {
  const parts: number[][] = [];
  for (let s = segment; s >= 0; s = parents[s] as number)
    parts.unshift(Array.from(tokens.subarray(offsets[s], offsets[s + 1])));
  return parts.flat();
}

/** The engine's rules: EOS ends a row, a stop text does once a non-blank stands before it, else the length. */
function cutRow(
  ids: number[],
  stop: string[],
  longest: number,
  codec: CharacterCodec,
): { ids: number[]; finish: 0 | 1 | 2 } {
  for (let end = 1; end <= Math.min(ids.length, longest); end++) {
    if (ids[end - 1] === EOS) return { ids: ids.slice(0, end), finish: 1 };
    const text = codec.decode(ids.slice(0, end));
    const at = Math.max(...stop.map((mark) => text.lastIndexOf(mark)), -1);
    if (at >= 0 && text.slice(0, at).trim() !== '') return { ids: ids.slice(0, end), finish: 0 };
  }
  return { ids: ids.slice(0, longest), finish: 2 };
}
