// Checked by tsc alone: the wrapper classes implement what the loop and the commands are written against.

import { ERROR_TABLE, type ErrorCode } from '../../src/errors.js';
import type { NativeAddon, NativeHandle } from '../../src/native/contract.js';
import type { Engine } from '../../src/native/engine.js';
import type { Trainer } from '../../src/native/trainer.js';
import type { EngineLike, TrainerLike } from '../../src/native/types.js';
import { pairwise } from '../../src/training/losses/dual.js';
import type { PairLoss, PairVectors } from '../../src/training/losses/pair-loss.js';
import type { PreferenceOptions } from '../../src/training/types.js';

type Expect<T extends true> = T;
type Assignable<From, To> = From extends To ? true : false;

export type Checks = [
  Expect<Assignable<Engine, EngineLike>>,
  Expect<Assignable<Engine, AsyncDisposable>>,
  Expect<Assignable<Trainer, TrainerLike>>,
  Expect<Assignable<Trainer, AsyncDisposable>>,
  Expect<Assignable<Awaited<ReturnType<Engine['createTrainer']>>, Trainer>>,
  Expect<Assignable<'CANCELLED', ErrorCode>>,
  Expect<Assignable<'SOMETHING_ELSE', ErrorCode> extends false ? true : false>,
];

// A handle is opaque: only the addon makes one.
// @ts-expect-error an object literal is no handle
export const handle: NativeHandle = {};

export function misuse(engine: Engine, addon: NativeAddon, EngineClass: typeof Engine): void {
  // @ts-expect-error the constructor is private; Engine.load makes engines
  new EngineClass(addon, handle);
  const forest = { tokens: new Int32Array(), offsets: new Int32Array(1), parents: new Int32Array() };
  // @ts-expect-error nodes are segments in an Int32Array
  void engine.generate({ forest, nodes: [0] });
  // @ts-expect-error no such optimiser
  void engine.createTrainer({ optimizer: 'adam' });
  // @ts-expect-error log-probs and their gradients are float64
  void addon.backwardPreference(handle, new Float32Array(1), handle);
  // @ts-expect-error the table is read-only
  ERROR_TABLE.INTERNAL = [0, ''];
}

// A plain function is a loss, synchronous or not; so is what pairwise makes, and a loss by name.
const zeros = ({ chosen }: PairVectors) => ({
  loss: new Float64Array(chosen.length),
  gradChosen: new Float64Array(chosen.length),
  gradRejected: new Float64Array(chosen.length),
});
export const losses: PreferenceOptions[] = [
  { loss: zeros },
  { loss: async (pairs) => zeros(pairs) },
  { loss: pairwise((pair) => pair.margin(0.1).negLogSigmoid(), { reference: false }) },
  { loss: 'simpo', gamma: 0.5, mix: 0.9 },
  // @ts-expect-error no such loss
  { loss: 'orpo' },
];
// @ts-expect-error gradients are missing
export const incomplete: PairLoss = (pairs) => ({ loss: pairs.chosen });
