// Metrics of one optimiser step under the names and definitions of TRL's DPOTrainer: means over the step's pairs.

import type { StepMetrics } from './types.js';

/** Sums over pairs. With beta: rewards are beta * (log-prob - reference log-prob); log-probs are sums over tokens. */
export class PreferenceMeter {
  #pairs = 0;
  #loss = 0;
  #rewardChosen = 0;
  #rewardRejected = 0;
  #wins = 0;
  #logpChosen = 0;
  #logpRejected = 0;

  constructor(readonly beta: number) {}

  /** A micro-batch's share of the mean loss. */
  addLoss(share: number): void {
    this.#loss += share;
  }

  addPair(chosen: { logprob: number; reference: number }, rejected: { logprob: number; reference: number }): void {
    const rewardChosen = this.beta * (chosen.logprob - chosen.reference);
    const rewardRejected = this.beta * (rejected.logprob - rejected.reference);
    this.#pairs++;
    this.#rewardChosen += rewardChosen;
    this.#rewardRejected += rewardRejected;
    if (rewardChosen > rewardRejected) this.#wins++;
    this.#logpChosen += chosen.logprob;
    this.#logpRejected += rejected.logprob;
  }

  get loss(): number {
    return this.#loss;
  }

  metrics(): StepMetrics {
    const n = this.#pairs;
    return {
      'rewards/chosen': this.#rewardChosen / n,
      'rewards/rejected': this.#rewardRejected / n,
      'rewards/accuracies': this.#wins / n,
      'rewards/margins': (this.#rewardChosen - this.#rewardRejected) / n,
      'logps/chosen': this.#logpChosen / n,
      'logps/rejected': this.#logpRejected / n,
    };
  }
}
