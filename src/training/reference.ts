// Reference log-probs: computed once, before the first step, on the very packing that the first epoch trains on, or taken
// from disk. Later epochs pack the pairs differently and read them by pair.

import { StepwardError } from '../errors.js';
import type { Completions, EngineLike, TrainerLike } from '../native/types.js';
import { adapterHash } from './adapter-hash.js';
import { nameOf, type Pair, type PairBatch } from './pairs.js';
import { forestKey, ReferenceCache } from './reference-cache.js';
import { joinParts, type ReferencePart, treeParts, wholePart } from './reference-parts.js';
import type { ReferenceCacheOptions } from './types.js';

/** Reference log-probs by pair, natural, summed over the tokens of a side. NaN until they are stored. */
export class ReferenceTable {
  readonly #chosen: Float64Array;
  readonly #rejected: Float64Array;

  /** `used` false: of a loss without a reference, all are 0. */
  constructor(pairs: number, used = true) {
    this.#chosen = new Float64Array(pairs).fill(used ? Number.NaN : 0);
    this.#rejected = this.#chosen.slice();
  }

  /** `logprobs`: [C] of the packed batch. */
  store({ members, packed }: PairBatch, logprobs: ArrayLike<number>): void {
    for (const [p, pair] of members.entries()) {
      this.#chosen[pair.index] = logprobs[packed.chosen[p] as number] as number;
      this.#rejected[pair.index] = logprobs[packed.rejected[p] as number] as number;
    }
  }

  chosen(pair: Pair): number {
    return this.#chosen[pair.index] as number;
  }

  rejected(pair: Pair): number {
    return this.#rejected[pair.index] as number;
  }

  /** [C] for a packed batch. */
  read({ members, packed }: PairBatch): Float64Array {
    const values = new Float64Array(packed.completionOffsets.length - 1);
    for (const [p, pair] of members.entries()) {
      values[packed.chosen[p] as number] = this.chosen(pair);
      values[packed.rejected[p] as number] = this.rejected(pair);
    }
    return values;
  }
}

/** Gives the reference log-probs of micro-batches, from disk where they are there, and counts tokens. */
export class ReferenceModel {
  readonly #trainer: TrainerLike;
  readonly #cache: ReferenceCache | undefined;
  readonly #dispose: boolean;
  readonly #treesAlone: boolean;
  computedTokens = 0;
  cachedTokens = 0;

  /**
   * `treesAlone`: a tree's log-probs are the same bits whatever is computed beside it, and so kept tree by tree. Elsewhere the
   * last bits of a sum depend on the micro-batch, which is kept as a whole.
   */
  private constructor(trainer: TrainerLike, dispose: boolean, cache: ReferenceCache | undefined, treesAlone: boolean) {
    this.#trainer = trainer;
    this.#dispose = dispose;
    this.#cache = cache;
    this.#treesAlone = treesAlone;
  }

  /**
   * `other`: an engine that is the reference; undefined: the trained one as it is. It too goes through a trainer: by the
   * same routine and packing equal weights give equal log-probs. `adapter`: the folder of the one that training starts from,
   * which the reference has as well.
   */
  static async open(
    engine: EngineLike,
    trainer: TrainerLike,
    other: EngineLike | undefined,
    stored: ReferenceCacheOptions | undefined,
    adapter: string | undefined,
  ): Promise<ReferenceModel> {
    const { device, dtype } = (other ?? engine).info;
    const cache = stored
      ? ReferenceCache.open(
          {
            ...stored,
            machine: JSON.stringify([
              stored.machine,
              device,
              dtype,
              other || adapter === undefined ? undefined : adapterHash(adapter),
            ]),
          },
          await (other ?? engine).weightsHash(),
        )
      : undefined;
    const own = other ? await other.createTrainer({ optimizer: 'sgd' }) : trainer;
    const treesAlone = cache !== undefined && device === 'cpu' && dtype === 'float32';
    return new ReferenceModel(own, other !== undefined, cache, treesAlone);
  }

  /** [C]. Throws NUMERICAL naming pair and side where one is not finite; none of the batch is then kept on disk. */
  async logprobs(batch: PairBatch, signal: AbortSignal | undefined): Promise<ArrayLike<number>> {
    const parts = this.#treesAlone ? treeParts(batch.packed) : [wholePart(batch.packed)];
    const keys = this.#cache ? parts.map(({ packed }) => forestKey(packed)) : [];
    const known = parts.map(({ completions }, i) => this.#cache?.get(keys[i] as string, completions.length));
    const missing = parts.filter((_, i) => !known[i]);
    const computed = await this.#compute(joinParts(missing), signal);
    this.cachedTokens += batch.packed.forest.tokens.length - tokensOf(missing);

    const logprobs = new Float64Array(batch.packed.completionOffsets.length - 1);
    let next = 0;
    for (const [i, { completions }] of parts.entries()) {
      const values = known[i];
      for (const [k, c] of completions.entries()) logprobs[c] = (values ? values[k] : computed[next++]) as number;
    }
    checkFinite(batch, logprobs);
    for (const [i, { completions }] of parts.entries()) {
      if (known[i]) continue;
      this.#cache?.put(
        keys[i] as string,
        completions.map((c) => logprobs[c] as number),
      );
    }
    return logprobs;
  }

  async #compute(packed: Completions, signal: AbortSignal | undefined): Promise<ArrayLike<number>> {
    const tokens = packed.forest.tokens.length;
    this.computedTokens += tokens;
    return tokens > 0 ? this.#trainer.referenceLogprobs(packed, signal) : [];
  }

  async dispose(): Promise<void> {
    if (this.#dispose) await this.#trainer.dispose();
  }
}

const tokensOf = (parts: ReferencePart[]): number =>
  parts.reduce((sum, { packed }) => sum + packed.forest.tokens.length, 0);

function checkFinite({ members, packed }: PairBatch, logprobs: ArrayLike<number>): void {
  for (const [p, pair] of members.entries()) {
    for (const side of ['chosen', 'rejected'] as const) {
      const value = logprobs[packed[side][p] as number] as number;
      if (Number.isFinite(value)) continue;
      throw new StepwardError(
        'NUMERICAL',
        `reference log-prob of ${side} of ${nameOf(pair)}: expected a finite number, got ${value}`,
      );
    }
  }
}
