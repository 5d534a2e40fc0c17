import { describe, expect, it } from 'vitest';
import { Dual, type DualPair, pairwise } from '../../src/training/losses/dual.js';
import type { PairVectors } from '../../src/training/losses/pair-loss.js';

const x = (value: number): Dual => new Dual(value, 1, 0);
const y = (value: number): Dual => new Dual(value, 0, 1);

/** Every operation as a function of two variables, away from kinks. */
const formulas: [string, (a: Dual, b: Dual) => Dual, (a: number, b: number) => number][] = [
  ['add', (a, b) => a.add(b).add(3), (a, b) => a + b + 3],
  ['sub', (a, b) => a.sub(b).sub(3), (a, b) => a - b - 3],
  ['mul', (a, b) => a.mul(b).mul(-2), (a, b) => a * b * -2],
  ['div', (a, b) => a.div(b).div(4), (a, b) => a / b / 4],
  ['division of a number', (a, b) => Dual.of(2).div(a.mul(b)), (a, b) => 2 / (a * b)],
  ['neg', (a) => a.neg(), (a) => -a],
  ['exp', (a, b) => a.mul(b).exp(), (a, b) => Math.exp(a * b)],
  ['log', (a, b) => a.mul(a).add(b.abs()).log(), (a, b) => Math.log(a * a + Math.abs(b))],
  ['logSigmoid', (a, b) => a.sub(b).logSigmoid(), (a, b) => -Math.log(1 + Math.exp(b - a))],
  ['negLogSigmoid', (a, b) => a.sub(b).negLogSigmoid(), (a, b) => Math.log(1 + Math.exp(b - a))],
  ['relu', (a, b) => a.relu().add(b.relu()), (a, b) => Math.max(a, 0) + Math.max(b, 0)],
  ['abs', (a, b) => a.abs().mul(b.abs()), (a, b) => Math.abs(a) * Math.abs(b)],
  ['min', (a, b) => a.min(b).mul(a), (a, b) => Math.min(a, b) * a],
  ['max', (a, b) => a.max(b).mul(b).max(-100), (a, b) => Math.max(Math.max(a, b) * b, -100)],
];

describe('Dual', () => {
  it.each(formulas)('%s has the value and the slopes of its function', (_name, dual, plain) => {
    for (const [a, b] of [
      [0.75, -1.25],
      [-2.5, 0.5],
      [1.5, 3.25],
      [-0.5, -0.25],
    ] as const) {
      const found = dual(x(a), y(b));
      const h = 1e-6;
      expect(found.value).toBeCloseTo(plain(a, b), 12);
      expect(found.dChosen).toBeCloseTo((plain(a + h, b) - plain(a - h, b)) / (2 * h), 7);
      expect(found.dRejected).toBeCloseTo((plain(a, b + h) - plain(a, b - h)) / (2 * h), 7);
    }
  });

  it("takes autograd's side where there is no slope", () => {
    expect(x(0).relu()).toMatchObject({ value: 0, dChosen: 0 });
    expect(x(0).abs()).toMatchObject({ value: 0, dChosen: 0 });
    expect(x(2).max(y(2))).toMatchObject({ value: 2, dChosen: 0.5, dRejected: 0.5 });
    expect(x(2).min(y(2))).toMatchObject({ value: 2, dChosen: 0.5, dRejected: 0.5 });
  });

  it('neither overflows nor vanishes in logSigmoid, and keeps a NaN', () => {
    expect(x(-1e6).negLogSigmoid()).toMatchObject({ value: 1e6, dChosen: -1 });
    expect(x(800).negLogSigmoid()).toMatchObject({ value: 0, dChosen: -0 });
    expect(x(30).negLogSigmoid().value / Math.exp(-30)).toBeCloseTo(1, 10);
    for (const found of [x(Number.NaN).relu(), x(Number.NaN).max(1), x(Number.NaN).negLogSigmoid()]) {
      expect(found.value).toBeNaN();
    }
  });
});

const pairs: PairVectors = {
  chosen: Float64Array.of(-8, -3),
  rejected: Float64Array.of(-15, -4),
  referenceChosen: Float64Array.of(-10, -2),
  referenceRejected: Float64Array.of(-12, -9),
  chosenLength: Int32Array.of(4, 2),
  rejectedLength: Int32Array.of(6, 3),
  step: Int32Array.of(0, 2),
};

describe('pairwise', () => {
  it('is DPO of the margin, worked out by hand', () => {
    const { loss, gradChosen, gradRejected } = pairwise((pair) => pair.margin(0.2).negLogSigmoid())(pairs) as Awaited<
      ReturnType<ReturnType<typeof pairwise>>
    >;
    expect(loss[0]).toBeCloseTo(Math.log(1 + Math.exp(-1)), 12); // r(w) = 2, r(l) = -3
    expect(gradChosen[0]).toBeCloseTo(-0.2 / (1 + Math.E), 12);
    expect(gradRejected[0]).toBeCloseTo(0.2 / (1 + Math.E), 12);
    expect(loss[1]).toBeCloseTo(Math.log(1 + Math.exp(1.2)), 12); // r(w) = -1, r(l) = 5
  });

  it('shows a formula both steps, their references, their lengths and their place', () => {
    const seen: DualPair[] = [];
    void pairwise((pair) => {
      seen.push(pair);
      return pair.chosenRatio.div(pair.chosenLength).sub(pair.rejectedRatio.div(pair.rejectedLength));
    })(pairs);
    expect(seen[1]).toMatchObject({
      referenceChosen: -2,
      referenceRejected: -9,
      chosenLength: 2,
      rejectedLength: 3,
      step: 2,
    });
    expect([seen[1]?.chosen.value, seen[1]?.rejected.value]).toEqual([-3, -4]);
  });

  it('has a reference unless it says that it has none', () => {
    expect(pairwise((pair) => pair.chosen.neg()).reference).toBe(true);
    expect(pairwise((pair) => pair.chosen.neg(), { reference: false }).reference).toBe(false);
  });
});
