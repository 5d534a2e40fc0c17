// Reference log-probs: computed once, before the first step, on the very packing that the first epoch trains on, or taken
// from disk. Later epochs pack the pairs differently and read them by pair.

import { StepwardError } from '../errors.js';
import type { EngineLike, TrainerLike } from '../native/types.js';
import { adapterHash } from './adapter-hash.js';
import { nameOf, type Pair, type PairBatch } from './pairs.js';
import { forestKey, ReferenceCache } from './reference-cache.js';
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
  computedTokens = 0;
  cachedTokens = 0;

  private constructor(trainer: TrainerLike, dispose: boolean, cache: ReferenceCache | undefined) {
    this.#trainer = trainer;
    this.#dispose = dispose;
    this.#cache = cache;
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
    return new ReferenceModel(own, other !== undefined, cache);
  }

  /** [C]. Throws NUMERICAL naming pair and side where one is not finite; none of the batch is then kept on disk. */
  async logprobs(batch: PairBatch, signal: AbortSignal | undefined): Promise<ArrayLike<number>> {
    const { packed } = batch;
    const key = this.#cache ? forestKey(packed) : '';
    const found = this.#cache?.get(key, packed.completionOffsets.length - 1);
    if (found) {
      this.cachedTokens += packed.forest.tokens.length;
      return found;
    }
    const values = await this.#trainer.referenceLogprobs(packed, signal);
    this.computedTokens += packed.forest.tokens.length;
    checkFinite(batch, values);
    this.#cache?.put(key, values);
    return values;
  }

  async dispose(): Promise<void> {
    if (this.#dispose) await this.#trainer.dispose();
  }
}

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
