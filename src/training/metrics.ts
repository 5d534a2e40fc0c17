// Metrics of one optimiser step under the names and definitions of TRL's DPOTrainer: means over the step's pairs.

import type { StepMetrics } from './types.js';

/** A completion of `tokens` tokens; log-probs are sums over them, the reference's is 0 where there is none. */
export interface MeteredCompletion {
  logprob: number;
  reference: number;
  tokens: number;
}

/**
 * Sums over pairs. Rewards are beta * (log-prob - reference log-prob), divided by the tokens where the loss is `perToken`:
 * simpo, whose reward that is (arXiv 2405.14734 eq. 4).
 */
export class PreferenceMeter {
  #pairs = 0;
  #loss = 0;
  #rewardChosen = 0;
  #rewardRejected = 0;
  #wins = 0;
  #logpChosen = 0;
  #logpRejected = 0;

  constructor(
    readonly beta: number,
    readonly perToken = false,
  ) {}

  /** A micro-batch's share of the mean loss. */
  addLoss(share: number): void {
    this.#loss += share;
  }

  addPair(chosen: MeteredCompletion, rejected: MeteredCompletion): void {
    const reward = ({ logprob, reference, tokens }: MeteredCompletion): number =>
      (this.beta * (logprob - reference)) / (this.perToken ? tokens : 1);
    const [rewardChosen, rewardRejected] = [reward(chosen), reward(rejected)];
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
