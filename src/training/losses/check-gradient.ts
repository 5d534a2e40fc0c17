// A loss of the user's own against itself: its gradients must be the slopes of its values, pair by pair. Run once, on the
// first micro-batch, before any gradient of it is used.

import { StepwardError } from '../../errors.js';
import type { PairGradients, PairLoss, PairVectors } from './pair-loss.js';

/** Nats. Truncation of a difference is of the order of its square, rounding of 1e-16 |loss| over it. */
const STEP = 1e-4;
const MOST_PAIRS = 16;
/** As shares of the slope and of 1: far above truncation and rounding, far below any slip in a formula. */
const RELATIVE = 1e-3;
const ABSOLUTE = 1e-6;

/** Per pair checked: itself, then its chosen and its rejected log-prob moved up and down. */
const COPIES = 5;

/**
 * Compares `result`, which `loss` gave for `pairs`, with differences of `loss` on at most 16 of the pairs, spread over
 * all. At a kink any slope between those on its two sides will do. `names` [P] are how messages call the pairs. Throws
 * INVALID_ARGUMENT for a gradient that is not the slope, and for a loss that depends on the other pairs.
 */
export async function checkGradient(
  loss: PairLoss,
  pairs: PairVectors,
  result: PairGradients,
  names: readonly number[],
): Promise<void> {
  const count = pairs.chosen.length;
  const checked = Array.from({ length: Math.min(MOST_PAIRS, count) }, (_, i) =>
    Math.floor((i * count) / Math.min(MOST_PAIRS, count)),
  );
  const probe = copies(pairs, checked);
  const values = (await loss(probe)).loss;
  const value = (at: number): number => values[at] as number;
  for (const [i, pair] of checked.entries()) {
    const first = i * COPIES;
    const own = result.loss[pair] as number;
    // What is not finite is its caller's to report.
    if (![own, result.gradChosen[pair], result.gradRejected[pair]].every(Number.isFinite)) continue;
    if (!close(value(first), own)) {
      throw invalid(
        `expected the loss of pair ${names[pair]} to depend on that pair alone, got ${own} in its micro-batch ` +
          `and ${value(first)} among other pairs`,
      );
    }
    for (const [side, logprobs, gradients, up] of [
      ['chosen', probe.chosen, result.gradChosen, first + 1],
      ['rejected', probe.rejected, result.gradRejected, first + 3],
    ] as const) {
      const gradient = gradients[pair] as number;
      const slope = (from: number, to: number): number =>
        (value(to) - value(from)) / ((logprobs[to] as number) - (logprobs[from] as number));
      const [below, central, above] = [slope(up + 1, first), slope(up + 1, up), slope(first, up)];
      if (close(gradient, central)) continue;
      const room = ABSOLUTE + RELATIVE * Math.abs(central);
      if (gradient >= Math.min(below, above) - room && gradient <= Math.max(below, above) + room) continue;
      throw invalid(
        `gradient of ${side} of pair ${names[pair]} is ${short(gradient)}, differences give ${short(central)}`,
      );
    }
  }
}

function close(found: number, wanted: number): boolean {
  return Math.abs(found - wanted) <= ABSOLUTE + RELATIVE * Math.max(Math.abs(found), Math.abs(wanted));
}

function short(value: number): string {
  return String(Number(value.toPrecision(4)));
}

function copies(pairs: PairVectors, checked: number[]): PairVectors {
  const rows = checked.flatMap((pair) => new Array<number>(COPIES).fill(pair));
  const doubles = (values: Float64Array): Float64Array => Float64Array.from(rows, (pair) => values[pair] as number);
  const integers = (values: Int32Array): Int32Array => Int32Array.from(rows, (pair) => values[pair] as number);
  const probe = {
    chosen: doubles(pairs.chosen),
    rejected: doubles(pairs.rejected),
    referenceChosen: doubles(pairs.referenceChosen),
    referenceRejected: doubles(pairs.referenceRejected),
    chosenLength: integers(pairs.chosenLength),
    rejectedLength: integers(pairs.rejectedLength),
    step: integers(pairs.step),
  };
  for (let first = 0; first < rows.length; first += COPIES) {
    const move = (values: Float64Array, at: number, by: number): void => {
      values[at] = (values[at] as number) + by;
    };
    move(probe.chosen, first + 1, STEP);
    move(probe.chosen, first + 2, -STEP);
    move(probe.rejected, first + 3, STEP);
    move(probe.rejected, first + 4, -STEP);
  }
  return probe;
}

function invalid(message: string): StepwardError {
  return new StepwardError('INVALID_ARGUMENT', `loss: ${message}`);
}
