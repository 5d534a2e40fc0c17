// The loss of a micro-batch, the core's or one of the user's: log-probs, loss, and the gradients added to the weights'.

import { StepwardError } from '../../errors.js';
import type {
  Completions,
  PreferenceBatch,
  PreferenceLossKind,
  PreferenceResult,
  TokenStatistics,
  TrainerLike,
} from '../../native/types.js';
import { checkGradient } from './check-gradient.js';
import { type PairGradients, type PairLoss, type PairVectors, swapSides } from './pair-loss.js';

/** A pair as a loss of the user's own and its messages know it. */
export interface NamedPair {
  /** Its number in the data, from 0. */
  index: number;
  /** Which step of its tree it judges, from 0. */
  step: number;
}

export interface LossStep {
  /**
   * Adds the gradients of the batch's share of the step's loss; `pairs` [P]. Throws what the trainer throws, and for a loss
   * of the user's own what it throws, INVALID_ARGUMENT for wrong gradients and NUMERICAL for a loss that is not finite. The
   * step's gradients are dropped then.
   */
  accumulate(
    trainer: TrainerLike,
    batch: Omit<PreferenceBatch, 'loss'>,
    pairs: readonly NamedPair[],
    signal?: AbortSignal,
  ): Promise<PreferenceResult>;
}

/** One for a training: the first micro-batch of a loss of the user's own is used to check its gradients. */
export function lossStep(loss: PreferenceLossKind | PairLoss): LossStep {
  if (typeof loss === 'function') return new OwnLoss(loss);
  return { accumulate: (trainer, batch, _pairs, signal) => trainer.accumulatePreference({ ...batch, loss }, signal) };
}

class OwnLoss implements LossStep {
  readonly #loss: PairLoss;
  #checked = false;
  #last: Promise<unknown> = Promise.resolve();

  constructor(loss: PairLoss) {
    this.#loss = loss;
  }

  /** One at a time: a backward belongs to the forward just before it, also where a caller does not wait. */
  accumulate(...args: Parameters<LossStep['accumulate']>): Promise<PreferenceResult> {
    const result = this.#last.then(() => this.#accumulate(...args));
    this.#last = result.catch(() => undefined);
    return result;
  }

  async #accumulate(...[trainer, batch, pairs, signal]: Parameters<LossStep['accumulate']>): Promise<PreferenceResult> {
    const { forest, completionOffsets, completionSegments } = batch;
    const completions: Completions = { forest, completionOffsets, completionSegments };
    const { logprobs, lengths, statistics, computedTokens } = await trainer.forwardPreference(completions, signal);
    try {
      const vectors = vectorsOf(batch, logprobs, lengths, pairs);
      const { loss, gradChosen, gradRejected } = await this.#mixed(vectors, batch.mix, pairs);
      const grad = new Float64Array(logprobs.length);
      const pairLoss = new Float32Array(pairs.length);
      let total = 0;
      let nll = 0;
      for (const [p, { index }] of pairs.entries()) {
        const [chosen, rejected] = [batch.chosen[p] as number, batch.rejected[p] as number];
        const own = [loss[p] as number, gradChosen[p] as number, gradRejected[p] as number] as const;
        if (!own.every(Number.isFinite)) {
          throw new StepwardError(
            'NUMERICAL',
            `loss: expected a finite loss and finite gradients of pair ${index}, got ${own.join(', ')}`,
          );
        }
        const weight = batch.weight[p] as number;
        pairLoss[p] = weight * own[0];
        total += weight * own[0];
        nll -= weight * (logprobs[chosen] as number);
        add(grad, chosen, (weight * own[1]) / batch.pairNorm);
        add(grad, rejected, (weight * own[2]) / batch.pairNorm);
        if (batch.sftWeight > 0) add(grad, chosen, (-batch.sftWeight * weight) / batch.tokenNorm);
      }
      const sftLoss = batch.tokenNorm > 0 ? nll / batch.tokenNorm : 0;
      await trainer.backwardPreference(grad, signal);
      return {
        loss: total / batch.pairNorm + batch.sftWeight * sftLoss,
        sftLoss,
        completionLogprobs: logprobs,
        pairLoss,
        computedTokens,
        ...(statistics && { statistics: statisticsOf(batch, lengths, statistics) }),
      };
    } catch (error) {
      await trainer.zeroGrad().catch(() => undefined);
      throw error;
    }
  }

  /** mix * loss(chosen, rejected) + (1 - mix) * loss(rejected, chosen), as the core has it. */
  async #mixed(
    vectors: PairVectors,
    mix: Float32Array | undefined,
    pairs: readonly NamedPair[],
  ): Promise<PairGradients> {
    const forward = await this.#evaluate(vectors);
    if (!this.#checked) {
      await checkGradient(
        this.#loss,
        vectors,
        forward,
        pairs.map(({ index }) => index),
      );
      this.#checked = true;
    }
    if (!mix?.some((share) => share !== 1)) return forward;
    const back = await this.#evaluate(swapSides(vectors));
    const blend = (own: Float64Array, other: Float64Array): Float64Array =>
      own.map((value, p) => {
        const share = mix[p] as number;
        // A side of share 0 is left out: where its loss is infinite, 0 times it would be NaN.
        return (share === 0 ? 0 : share * value) + (share === 1 ? 0 : (1 - share) * (other[p] as number));
      });
    return {
      loss: blend(forward.loss, back.loss),
      gradChosen: blend(forward.gradChosen, back.gradRejected),
      gradRejected: blend(forward.gradRejected, back.gradChosen),
    };
  }

  async #evaluate(vectors: PairVectors): Promise<PairGradients> {
    const result = await this.#loss(vectors);
    const count = vectors.chosen.length;
    for (const name of ['loss', 'gradChosen', 'gradRejected'] as const) {
      const values: unknown = result?.[name];
      if (values instanceof Float64Array && values.length === count) continue;
      const came = values instanceof Float64Array ? `one of ${values.length}` : String(values);
      throw new StepwardError(
        'INVALID_ARGUMENT',
        `loss: expected ${name} to be a Float64Array of ${count}, one number a pair, got ${came}`,
      );
    }
    return result;
  }
}

/** The sums over the pairs that the core gives beside its own losses. `of`: [3, C], see CompletionValues. */
function statisticsOf(
  { chosen, rejected }: Omit<PreferenceBatch, 'loss'>,
  lengths: Int32Array,
  of: Float64Array,
): TokenStatistics {
  const completions = lengths.length;
  const sum = (side: Int32Array, value: (completion: number) => number): number =>
    side.reduce((total, completion) => total + value(completion), 0);
  const row =
    (kind: number) =>
    (completion: number): number =>
      of[kind * completions + completion] as number;
  const length = (completion: number): number => lengths[completion] as number;
  const [chosenTokens, rejectedTokens] = [sum(chosen, length), sum(rejected, length)];
  return {
    correct: sum(chosen, row(0)),
    entropy: sum(chosen, row(1)) + sum(rejected, row(1)),
    logitsChosen: sum(chosen, row(2)),
    logitsRejected: sum(rejected, row(2)),
    chosenTokens,
    rejectedTokens,
    sideTokens: chosenTokens + rejectedTokens,
  };
}

function vectorsOf(
  batch: Omit<PreferenceBatch, 'loss'>,
  logprobs: Float64Array,
  lengths: Int32Array,
  pairs: readonly NamedPair[],
): PairVectors {
  const doubles = (values: Float64Array, side: Int32Array): Float64Array =>
    Float64Array.from(side, (completion) => values[completion] as number);
  const tokens = (side: Int32Array): Int32Array => side.map((completion) => lengths[completion] as number);
  return {
    chosen: doubles(logprobs, batch.chosen),
    rejected: doubles(logprobs, batch.rejected),
    referenceChosen: doubles(batch.reference, batch.chosen),
    referenceRejected: doubles(batch.reference, batch.rejected),
    chosenLength: tokens(batch.chosen),
    rejectedLength: tokens(batch.rejected),
    step: Int32Array.from(pairs, ({ step }) => step),
  };
}

function add(values: Float64Array, at: number, amount: number): void {
  values[at] = (values[at] as number) + amount;
}
