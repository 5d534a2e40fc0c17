// Losses from formulas: forward-mode derivatives over a pair's two log-probs, so that a loss is written once and its
// gradients cannot differ from it.

import type { PairGradients, PairLoss, PairVectors } from './pair-loss.js';

type Operand = Dual | number;

/**
 * A number with its derivatives in a pair's chosen and rejected log-prob. Immutable. Where a derivative does not exist it
 * is torch autograd's: 0 for relu and abs at 0, the mean of both sides where min or max tie.
 */
export class Dual {
  constructor(
    readonly value: number,
    readonly dChosen = 0,
    readonly dRejected = 0,
  ) {}

  static of(operand: Operand): Dual {
    return operand instanceof Dual ? operand : new Dual(operand);
  }

  add(other: Operand): Dual {
    const { value, dChosen, dRejected } = Dual.of(other);
    return new Dual(this.value + value, this.dChosen + dChosen, this.dRejected + dRejected);
  }

  sub(other: Operand): Dual {
    const { value, dChosen, dRejected } = Dual.of(other);
    return new Dual(this.value - value, this.dChosen - dChosen, this.dRejected - dRejected);
  }

  mul(other: Operand): Dual {
    const { value, dChosen, dRejected } = Dual.of(other);
    return new Dual(
      this.value * value,
      this.dChosen * value + this.value * dChosen,
      this.dRejected * value + this.value * dRejected,
    );
  }

  div(other: Operand): Dual {
    const { value, dChosen, dRejected } = Dual.of(other);
    const quotient = this.value / value;
    return new Dual(
      quotient,
      (this.dChosen - quotient * dChosen) / value,
      (this.dRejected - quotient * dRejected) / value,
    );
  }

  neg(): Dual {
    return new Dual(-this.value, -this.dChosen, -this.dRejected);
  }

  exp(): Dual {
    const value = Math.exp(this.value);
    return this.#chain(value, value);
  }

  /** Natural logarithm. */
  log(): Dual {
    return this.#chain(Math.log(this.value), 1 / this.value);
  }

  /** log(1 / (1 + e^-x)), without overflow for any x. */
  logSigmoid(): Dual {
    return this.#chain(-softplus(-this.value), sigmoid(-this.value));
  }

  /** -log sigmoid(x): what DPO takes of a margin. */
  negLogSigmoid(): Dual {
    return this.logSigmoid().neg();
  }

  /** max(0, x); NaN stays NaN. */
  relu(): Dual {
    return this.value <= 0 ? new Dual(0) : this;
  }

  abs(): Dual {
    return this.#chain(Math.abs(this.value), Math.sign(this.value));
  }

  min(other: Operand): Dual {
    return this.neg().max(Dual.of(other).neg()).neg();
  }

  max(other: Operand): Dual {
    const that = Dual.of(other);
    if (this.value > that.value) return this;
    if (this.value < that.value) return that;
    return this.add(that).mul(0.5);
  }

  /** f(this), where f has the value and slope given. */
  #chain(value: number, slope: number): Dual {
    return new Dual(value, slope * this.dChosen, slope * this.dRejected);
  }
}

/** One pair as a formula sees it. */
export class DualPair {
  /** Log-probs under the policy: the two variables. */
  readonly chosen: Dual;
  readonly rejected: Dual;
  readonly referenceChosen: number;
  readonly referenceRejected: number;
  /** Tokens. */
  readonly chosenLength: number;
  readonly rejectedLength: number;
  /** Which step of its tree the pair judges, from 0. */
  readonly step: number;

  constructor(pairs: PairVectors, index: number) {
    const at = (values: ArrayLike<number>): number => values[index] as number;
    this.chosen = new Dual(at(pairs.chosen), 1, 0);
    this.rejected = new Dual(at(pairs.rejected), 0, 1);
    this.referenceChosen = at(pairs.referenceChosen);
    this.referenceRejected = at(pairs.referenceRejected);
    this.chosenLength = at(pairs.chosenLength);
    this.rejectedLength = at(pairs.rejectedLength);
    this.step = at(pairs.step);
  }

  /** log(policy / reference) of the chosen step. */
  get chosenRatio(): Dual {
    return this.chosen.sub(this.referenceChosen);
  }

  get rejectedRatio(): Dual {
    return this.rejected.sub(this.referenceRejected);
  }

  /** beta * (r(chosen) - r(rejected)), r the log-ratios to the reference: PSRLM (arXiv 2503.03746) eq. 4. */
  margin(beta: number): Dual {
    return this.chosenRatio.sub(this.rejectedRatio).mul(beta);
  }
}

/**
 * A PairLoss from the loss of one pair: `pairwise((pair) => pair.margin(0.1).negLogSigmoid())` is DPO. `reference: false`
 * says that the formula reads no reference, so that none is computed.
 */
export function pairwise(formula: (pair: DualPair) => Dual, options: { reference?: boolean } = {}): PairLoss {
  const loss = (pairs: PairVectors): PairGradients => {
    const count = pairs.chosen.length;
    const out = {
      loss: new Float64Array(count),
      gradChosen: new Float64Array(count),
      gradRejected: new Float64Array(count),
    };
    for (let p = 0; p < count; p++) {
      const { value, dChosen, dRejected } = formula(new DualPair(pairs, p));
      out.loss[p] = value;
      out.gradChosen[p] = dChosen;
      out.gradRejected[p] = dRejected;
    }
    return out;
  };
  return Object.assign(loss, { reference: options.reference ?? true });
}

/** log(1 + e^x) */
function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}
