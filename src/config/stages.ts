// The recipe's stages that search and train: every choice as a named key with its default. Where the papers leave a choice
// open, the comment says why the default is what it is. "Paper" is Process-based Self-Rewarding (arXiv 2503.03746).

import { z } from 'zod';
import { LOSSES, OPTIMIZERS, SCHEDULES, SIMPO } from '../training/options.js';
import { eftSource, iftSource } from './sources.js';

const whole = z.int().nonnegative();
const counting = z.int().positive();
const positive = z.number().positive();
const text = z.string().min(1);

const loraSchema = z.strictObject({
  rank: counting,
  alpha: positive.optional(),
  targets: z.array(text).min(1).optional(),
});

const optimizerKeys = {
  optimizer: z.enum(OPTIMIZERS).default('adamw'),
  /** AdamW's second decay. From random weights 0.98 learns faster, since the gradients shrink fast. Paper: not stated. */
  adam_beta2: z.number().min(0).lt(1).default(0.999),
  /** Paper: not stated. Linear is what TRL and the DPO authors use. */
  schedule: z.enum(SCHEDULES).default('linear'),
  /** Below 1: share of the steps; else steps. Paper: not stated. */
  warmup: z.number().nonnegative().default(0),
  batch_size: counting.default(32),
  /** Optimiser steps of the stage; overrides epochs. */
  max_steps: counting.optional(),
  /** Global norm; 0: no clipping. */
  max_grad_norm: z.number().nonnegative().default(1),
  weight_decay: z.number().nonnegative().default(0),
  /** Tokens per forward pass. Changes memory and speed, not the result beyond rounding. */
  micro_batch_tokens: counting.default(8192),
  /** Patterns (* and ?) of the names of weights that are not trained, in Hugging Face's spelling. Paper: none. */
  freeze: z.array(text).min(1).optional(),
};

export const sftSchema = z.strictObject({
  ift: iftSource,
  /** Absent: M1 learns to solve but not to judge. */
  eft: eftSource.optional(),
  /** Shares of IFT and EFT examples in the data of an epoch, by repeating or leaving out; absent: all of both, as the paper. */
  mix: z.strictObject({ ift: positive, eft: positive }).optional(),
  /** Paper: 3 epochs at 1e-6, batches of 32. */
  epochs: positive.default(3),
  lr: positive.default(1e-6),
  ...optimizerKeys,
  lora: loraSchema.optional(),
});

export const searchSchema = z.strictObject({
  /** Candidates per step. Paper: 6 at temperature 0.5, top-p 0.95, at most 20 steps. */
  width: z.int().min(2).default(6),
  temperature: z.number().nonnegative().default(0.5),
  top_p: z.number().positive().max(1).default(0.95),
  /** 0: off, as the paper. */
  top_k: whole.default(0),
  /** 0: off, as the paper. */
  min_p: z.number().min(0).max(1).default(0),
  max_steps: counting.default(20),
  /** Paper: not stated. Longer than the longest mean step it reports (144 tokens at 72B). */
  max_step_tokens: counting.default(256),
  /**
   * Merge identical candidates before judging. Unmerged, they tie with each other and each counts as an opponent, so that
   * wins weigh a step by how often it was sampled. Paper: not stated.
   */
  merge: z.boolean().default(true),
  /**
   * A step cut off by max_step_tokens. drop: recorded, but neither judged nor chosen, since half a step has no verdict
   * worth having; keep: judged like any other. Paper: not stated.
   */
  truncated: z.enum(['drop', 'keep']).default('drop'),
  /**
   * Which solutions go on. greedy: the best candidate alone, with a step back where the judge sees no difference (paper).
   * beam: the best `beam` solutions of each length. best_first: the best of all solutions so far. Both rank a solution by
   * the mean over its steps of wins / most wins possible, and go back by having others rather than by rollback.
   */
  strategy: z.enum(['greedy', 'beam', 'best_first']).default('greedy'),
  /** beam: solutions kept. Genius (2504.08672), label-free step search too, keeps 2. Each costs a greedy search. */
  beam: counting.default(2),
  /** best_first: added to a solution's value for each of its steps, so that one far along is not left for a fresh start. */
  depth_bonus: z.number().nonnegative().default(0.05),
  /** best_first: steps sampled per problem. Absent: 3/2 of max_steps, a greedy search and half of one to go back. */
  expansions: counting.optional(),
  /** Problems searched at once. More fill the engine's steps better and take more memory for keys and values; no effect on results. */
  open_trees: counting.default(64),
});

export const judgeSchema = z.strictObject({
  /** critique: reasons first, then the verdict (paper). readout: the label probabilities at once, cheaper. */
  mode: z.enum(['critique', 'readout']).default('critique'),
  /**
   * both: each pair in both orders, and orders that disagree give half a win each (12.9% of GPT-4's verdicts flip on
   * swap, FastChat 3911); random: one order per pair, drawn from the seed. Paper: eq. 2 reads as both.
   */
  orders: z.enum(['both', 'random']).default('both'),
  /**
   * Which candidates meet. all: every pair in one request, as the paper, and the most evidence on each. For wide searches,
   * in rounds that wait for each other: swiss, candidates of nearly equal standing; knockout, the fewest that find best
   * and worst.
   */
  pairing: z.enum(['all', 'swiss', 'knockout']).default('all'),
  /** swiss: rounds. Absent: log2 of the candidates rounded up, as many as an elimination needs. */
  rounds: counting.optional(),
  /** Paper: not stated for judging. Greedy: one verdict per order without sampling noise. */
  temperature: z.number().nonnegative().default(0),
  top_p: z.number().positive().max(1).default(1),
  top_k: whole.default(0),
  min_p: z.number().min(0).max(1).default(0),
  /** Longest critique; one that runs out has no verdict and counts as a parse failure. */
  max_tokens: counting.default(512),
  /** Keep critiques in search.jsonl. They are most of its size. */
  record_critiques: z.boolean().default(true),
});

const tieRule = z.enum(['count', 'logprob', 'first']);

export const selectSchema = z.strictObject({
  /** Least difference of wins between chosen and rejected for a pair; 0: any. The step is accepted either way. */
  min_margin: z.number().nonnegative().default(0),
  /** Steps back per problem when the wins have no spread. Paper: no cap stated; without one a search may never end. */
  max_rollbacks: whole.default(3),
  /** All samples the same step: there is no disagreement to judge. accept: go on without a pair; rollback: as no spread. */
  on_unanimous: z.enum(['accept', 'rollback']).default('accept'),
  /** Equal most wins: the most sampled, the likeliest, or the first. Paper: not stated; count is self-consistency for free. */
  tie_chosen: tieRule.default('count'),
  /** Equal fewest wins: the mistake sampled most often is the one most worth unlearning. */
  tie_rejected: tieRule.default('count'),
  /** Weight of a pair in the loss. margin: wins apart over the most possible, as Full-Step-DPO weighs by score. Paper: one. */
  pair_weight: z.enum(['one', 'margin']).default('one'),
});

const updateKeys = z.strictObject({
  loss: z.enum(LOSSES).default('sigmoid'),
  /** Paper: not stated. Absent: 0.4, as Step-DPO, the closest published recipe, uses 0.4 to 0.5; simpo 2. */
  beta: positive.optional(),
  label_smoothing: z.number().min(0).lt(0.5).default(0),
  /** Of simpo alone: the margin that chosen is to be ahead by. */
  gamma: z.number().nonnegative().default(SIMPO.gamma),
  /** CREAM's C, how sure the labels are: the rest of a pair's loss is its loss the other way round. Paper: none. */
  mix: z.number().min(0).max(1).default(1),
  /** Times the chosen steps' mean negative log-prob (Iterative RPO). Paper: none. */
  sft_weight: z.number().nonnegative().default(0),
  /** Paper: 1 epoch at 5e-7, batches of 32 pairs. */
  epochs: positive.default(1),
  lr: positive.default(5e-7),
  ...optimizerKeys,
  /** The model the log-ratios are taken against. previous: M(n-1), the natural reading of the paper; m1: always M1. */
  reference: z.enum(['previous', 'm1']).default('previous'),
  lora: loraSchema.optional(),
});

export const updateSchema = updateKeys
  .refine(({ loss, reference }) => loss !== 'simpo' || reference === 'previous', {
    path: ['reference'],
    message: 'expected previous beside the loss simpo, which has no reference, got "m1"',
  })
  .transform((given) => ({ ...given, beta: given.beta ?? (given.loss === 'simpo' ? SIMPO.beta : 0.4) }));
