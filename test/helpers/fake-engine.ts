// An engine without a model: a function from prompt text and a seeded random stream to the text that follows. Its rows
// depend on seed, tree key, step and candidate alone, as the real engine's do, and its counts are counted, not made up.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { StepwardError } from '../../src/errors.js';
import type { ForestData } from '../../src/native/contract.js';
import type {
  EngineLike,
  GenerateRequest,
  GenerateResult,
  ModelInfo,
  PreferenceBatch,
  PreferenceResult,
  ReadoutResult,
  ScoreResult,
  SftBatch,
  SftResult,
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
  /** Every generate request, in order. */
  readonly requests: GenerateRequest[] = [];
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

  async referenceLogprobs(batch: PreferenceBatch): Promise<Float32Array> {
    return completionLogprobs(batch);
  }

  async apply(): Promise<number> {
    this.engine.skill++;
    return 1;
  }

  async zeroGrad(): Promise<void> {}
  async saveAdapter(): Promise<void> {}
  async mergeAdapter(): Promise<void> {}
  async dispose(): Promise<void> {}
}

function completionLogprobs({ forest, completionOffsets, completionSegments }: PreferenceBatch): Float32Array {
  return Float32Array.from({ length: completionOffsets.length - 1 }, (_, c) => {
    const segments = completionSegments.subarray(completionOffsets[c], completionOffsets[c + 1]);
    return (
      -0.25 * segments.reduce((sum, s) => sum + (forest.offsets[s + 1] as number) - (forest.offsets[s] as number), 0)
    );
  });
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
