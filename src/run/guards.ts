// Guards: the signs that a run is about to harm its model. Each check returns a message, or undefined where all is well.

import type { GuardConfig } from '../config/recipe.js';
import { percent } from '../data/percent.js';
import type { StepMetrics } from '../training/types.js';

/** Judge accuracy of M(n) on held-out pairs, and that of the model before it. */
export function judgeGuard(config: GuardConfig, accuracy: number, previous: number | undefined): string | undefined {
  if (accuracy < config.judge_accuracy) {
    return (
      `held-out judge accuracy is ${percent(accuracy)}, below guards.judge_accuracy ${percent(config.judge_accuracy)} ` +
      '(50% is chance): training on its verdicts would harm the model'
    );
  }
  if (previous !== undefined && previous - accuracy > config.judge_fall) {
    return (
      `held-out judge accuracy fell from ${percent(previous)} to ${percent(accuracy)}, ` +
      `more than guards.judge_fall ${percent(config.judge_fall)} in one iteration`
    );
  }
  return undefined;
}

const WINDOW = 10;

/**
 * Watches the chosen steps' log-prob against the reference: its mean over the last ten optimiser steps of an update, over
 * all of them where there are fewer, which is then looked at once, after the last.
 */
export class ChosenGuard {
  readonly #falls: number[] = [];
  #start: number | undefined;

  /**
   * `chosenTokens`: mean tokens of a chosen step; 1 where rewards are per token. `against`: what a fall is measured from.
   * A loss without a reference has rewards of the log-prob itself, so there it is the update's first step.
   */
  constructor(
    readonly config: GuardConfig,
    readonly beta: number,
    readonly chosenTokens: number,
    readonly against: 'reference' | 'first step' = 'reference',
  ) {}

  /** `total`: optimiser steps of the update. */
  check(metrics: StepMetrics, total: number): string | undefined {
    const reward = metrics['rewards/chosen'];
    if (reward === undefined) return undefined;
    const nats = reward / this.beta / Math.max(1, this.chosenTokens);
    this.#start ??= this.against === 'first step' ? nats : 0;
    this.#falls.push(this.#start - nats);
    const window = Math.min(WINDOW, total);
    if (this.#falls.length > window) this.#falls.shift();
    if (this.#falls.length < window) return undefined;
    const fall = this.#falls.reduce((sum, value) => sum + value, 0) / window;
    if (fall <= this.config.chosen_fall) return undefined;
    return (
      `the chosen steps' log-prob fell ${fall.toFixed(2)} nats per token below the ${this.against}, ` +
      `more than guards.chosen_fall ${this.config.chosen_fall}: the update is destroying what it should keep`
    );
  }
}
