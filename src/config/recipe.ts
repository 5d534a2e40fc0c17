// The recipe as a whole, its evaluation and its guards. The stages between are in stages.ts, where data comes from in
// sources.ts. "Paper" is Process-based Self-Rewarding (arXiv 2503.03746).

import { z } from 'zod';
import { DEFAULT_KV_BUDGET_MIB } from '../native/options.js';
import { formatSchema } from '../prompts/format.js';
import { eftSource, problemSource } from './sources.js';
import { judgeSchema, searchSchema, selectSchema, sftSchema, updateSchema } from './stages.js';

const share = z.number().min(0).max(1);
const whole = z.int().nonnegative();
const counting = z.int().positive();
const positive = z.number().positive();
const text = z.string().min(1);

export const modelSchema = z.union([
  text,
  z.strictObject({
    /** Folder with config.json and a tokenizer; the weights are random. */
    config: text,
    seed: whole.default(0),
  }),
]);

export const evaluateSchema = z.strictObject({
  /** Held-out problems with answers. Absent: no accuracy. */
  source: problemSource.optional(),
  /** Held-out labelled pairs. Absent: no judge accuracy and no guard on it. */
  judge_source: eftSource.optional(),
  /** Longest greedy solution. Default: search.max_steps * search.max_step_tokens, at most 2048 (Qwen2.5-Math's harness). */
  max_tokens: counting.optional(),
});

export const guardsSchema = z.strictObject({
  /** stop: end the run with what is finished; warn: say so and go on. */
  on: z.enum(['stop', 'warn']).default('stop'),
  /** Least held-out judge accuracy. Two choices make 0.5 chance; a judge there destroys its model in one iteration. */
  judge_accuracy: share.default(0.6),
  /** Most judge accuracy may fall from one model to the next. The paper's moves by at most 0.012. */
  judge_fall: share.default(0.1),
  /**
   * Most nats per token that the chosen steps' log-prob may fall below the reference during an update, averaged over
   * ten optimiser steps, or over all of a shorter update. A fall of both chosen and rejected is how too much DPO shows first.
   */
  chosen_fall: positive.default(0.5),
});

export const recipeSchema = z.strictObject({
  /** Names the run folder; default: the recipe's file name. */
  name: text.optional(),
  /** Hugging Face folder, or a config to start from random weights. With `sft` it is M0, else it is M1. */
  model: modelSchema,
  /** Prompt format: a file, or its keys here. Absent: the model's stepward.json, else the built-in one. */
  format: z.union([text, formatSchema]).optional(),
  sft: sftSchema.optional(),
  /** Rounds of search, judging and update: n of them end at M(n+1). Paper: 3, ending at M4. */
  iterations: whole.default(3),
  problems: z
    .strictObject({
      source: problemSource,
      /** Problems per iteration, one number or one for each; each iteration takes fresh ones while there are. Paper: 400, 800, 1200. */
      per_iteration: z.union([counting, z.array(counting).min(1)]).default([400, 800, 1200]),
    })
    .optional(),
  search: searchSchema.prefault({}),
  judge: judgeSchema.prefault({}),
  select: selectSchema.prefault({}),
  update: updateSchema.prefault({}),
  evaluate: evaluateSchema.prefault({}),
  guards: guardsSchema.prefault({}),
  /** Seed of sampling, shuffling and drawing. */
  seed: whole.default(0),
  device: z.enum(['auto', 'cpu', 'cuda']).default('auto'),
  dtype: z.enum(['auto', 'float32', 'bfloat16']).default('auto'),
  /** Absent: what the machine has. */
  threads: counting.optional(),
  /** Memory for keys and values while sampling. */
  kv_budget_mib: counting.default(DEFAULT_KV_BUDGET_MIB),
});

export { judgeSchema, searchSchema, selectSchema, sftSchema, updateSchema };

export type Recipe = z.infer<typeof recipeSchema>;
export type SftConfig = Recipe['sft'] & object;
export type SearchConfig = Recipe['search'];
export type JudgeConfig = Recipe['judge'];
export type SelectConfig = Recipe['select'];
export type UpdateConfig = Recipe['update'];
export type GuardConfig = Recipe['guards'];
