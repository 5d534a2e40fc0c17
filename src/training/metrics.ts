// Metrics of one optimiser step under the names and definitions of TRL's trainers: means over the step's pairs, or over
// their tokens.

import type { TokenStatistics } from '../native/types.js';
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
  readonly #steps = new Map<number, { pairs: number; wins: number; margin: number }>();
  readonly #tokens = new TokenMeter();

  constructor(
    readonly beta: number,
    readonly perToken = false,
  ) {}

  /** A micro-batch's share of the mean loss. */
  addLoss(share: number): void {
    this.#loss += share;
  }

  /** `step`: which of its trajectory the pair judges, from 1, where that is known. */
  addPair(chosen: MeteredCompletion, rejected: MeteredCompletion, step?: number): void {
    const reward = ({ logprob, reference, tokens }: MeteredCompletion): number =>
      (this.beta * (logprob - reference)) / (this.perToken ? tokens : 1);
    const [rewardChosen, rewardRejected] = [reward(chosen), reward(rejected)];
    const win = rewardChosen > rewardRejected ? 1 : 0;
    this.#pairs++;
    this.#rewardChosen += rewardChosen;
    this.#rewardRejected += rewardRejected;
    this.#wins += win;
    this.#logpChosen += chosen.logprob;
    this.#logpRejected += rejected.logprob;
    if (step === undefined) return;
    const own = this.#steps.get(step) ?? { pairs: 0, wins: 0, margin: 0 };
    this.#steps.set(step, own);
    own.pairs++;
    own.wins += win;
    own.margin += rewardChosen - rewardRejected;
  }

  /** Of a micro-batch, where the trainer gives them. */
  addStatistics(statistics: TokenStatistics): void {
    this.#tokens.add(statistics);
  }

  get loss(): number {
    return this.#loss;
  }

  /** `tokenRatio`: tokens of training without shared prefixes over the tokens that were computed. */
  metrics(tokenRatio: number): StepMetrics {
    const n = this.#pairs;
    const steps = [...this.#steps].sort(([a], [b]) => a - b);
    return {
      'rewards/chosen': this.#rewardChosen / n,
      'rewards/rejected': this.#rewardRejected / n,
      'rewards/accuracies': this.#wins / n,
      'rewards/margins': (this.#rewardChosen - this.#rewardRejected) / n,
      'logps/chosen': this.#logpChosen / n,
      'logps/rejected': this.#logpRejected / n,
      ...this.#tokens.metrics(),
      ...Object.fromEntries(steps.map(([k, { wins, pairs }]) => [`rewards/accuracies/step_${k}`, wins / pairs])),
      ...Object.fromEntries(steps.map(([k, { margin, pairs }]) => [`rewards/margins/step_${k}`, margin / pairs])),
      'tree/token_ratio': tokenRatio,
    };
  }
}

/** Sums over the tokens of completions, as the trainer gives them for a micro-batch. */
export class TokenMeter {
  #sums: TokenStatistics | undefined;

  add(statistics: TokenStatistics): void {
    const sums = this.#sums;
    if (!sums) this.#sums = { ...statistics };
    else for (const key of Object.keys(sums) as (keyof TokenStatistics)[]) sums[key] += statistics[key];
  }

  /** Means over tokens; a mean over none is left out, and so are all where the trainer gave nothing. */
  metrics(): StepMetrics {
    if (!this.#sums) return {};
    const { correct, entropy, logitsChosen, logitsRejected, chosenTokens, rejectedTokens, sideTokens } = this.#sums;
    return {
      ...(chosenTokens > 0 && { 'logits/chosen': logitsChosen / chosenTokens }),
      ...(rejectedTokens > 0 && { 'logits/rejected': logitsRejected / rejectedTokens }),
      ...(sideTokens > 0 && { entropy: entropy / sideTokens }),
      ...(chosenTokens > 0 && { mean_token_accuracy: correct / chosenTokens }),
    };
  }
}
