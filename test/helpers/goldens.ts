// The committed goldens of scripts/make-goldens.py and their types. Reads files, checks nothing.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';
import type { PreferenceLossKind } from '../../src/native/types.js';

export const GOLDENS = fileURLToPath(new URL('../goldens/', import.meta.url));
export const MODELS = ['llama', 'llama-tied', 'mistral', 'qwen2', 'qwen3', 'qwen3-bf16'];

export const modelFolder = (name: string) => join(GOLDENS, 'models', name);

export function readGolden<T>(file: string): T {
  return JSON.parse(readFileSync(join(GOLDENS, file), 'utf8')) as T;
}

export interface ScoreGolden {
  model: string;
  record: { id: string; prompt_ids: number[]; steps_ids: number[][]; candidates_ids: number[][] };
  steps: number[][];
  candidates: number[][];
}

export interface GenerateGolden {
  model: string;
  id: string;
  prompt_ids: number[];
  eos_ids: number[];
  min_new_tokens: number;
  max_new_tokens: number;
  ids: number[];
  logprobs: number[];
  finish: 'eos' | 'length';
}

/** The token after a prompt: its raw log-probs, and those that are left under each setting, null for what may not be drawn. */
export interface SamplingGolden {
  model: string;
  prompt_ids: number[];
  logprobs: number[];
  distributions: {
    temperature: number;
    top_k: number;
    top_p: number;
    min_p: number;
    logprobs: (number | null)[];
  }[];
}

/** Per tensor name: norm and projections on fixed signs (gradients.ts). */
export type GradientSummary = Record<string, { norm: number; projections: number[] }>;

export interface SftGolden {
  model: string;
  name: string;
  chains: { segments: { ids: number[]; weight: number }[] }[];
  token_norm: number;
  loss: number;
  gradient: GradientSummary;
}

export interface GoldenTree {
  prompt_ids: number[];
  steps: { chosen_ids: number[]; rejected: { ids: number[]; weight?: number; mix?: number }[] }[];
}

export interface PreferenceSettings {
  beta: number;
  loss: PreferenceLossKind;
  label_smoothing: number;
  sft_weight: number;
  /** Of simpo. */
  gamma?: number;
  /** Of pairs without their own. */
  mix?: number;
}

/** loss, rewards/*, logps/*; the TRL runs also carry grad_norm, learning_rate, epoch and num_tokens. */
export type Metrics = Record<string, number>;

export interface PreferenceGolden {
  model: string;
  name: string;
  options: PreferenceSettings;
  trees: GoldenTree[];
  /** Lines for the dpo command, where the model is its own reference. */
  records?: object[];
  /** Log-prob of each completion under a reference the model is not. */
  reference?: number[];
  metrics: Metrics;
  completion_logprobs: number[];
  gradient: GradientSummary;
  gradient_file?: string;
}

export interface RunGolden {
  name: string;
  model: string;
  options: PreferenceSettings;
  trees: GoldenTree[];
  learning_rate: number;
  steps: Metrics[];
}

/** One epoch in file order, batch_size pairs a step; `change` is what it did to the weights. */
export interface BatchedGolden extends Omit<RunGolden, 'name'> {
  batch_size: number;
  change: GradientSummary;
}

export interface TrlGolden extends Omit<RunGolden, 'learning_rate'> {
  training: {
    optim: 'sgd' | 'adamw_torch';
    learning_rate: number;
    lr_scheduler_type: 'constant' | 'linear';
    warmup_steps?: number;
    max_grad_norm: number;
    weight_decay: number;
  };
  pairs: number;
}

/** A folder of its own for one test file, removed after it. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'stepward-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A copy of a golden model in `folder` with `edit` applied to its config.json. */
export function editedModel(folder: string, name: string, edit: (config: Record<string, unknown>) => void): string {
  const copy = mkdtempSync(join(folder, `${name}-`));
  cpSync(modelFolder(name), copy, { recursive: true });
  const config = JSON.parse(readFileSync(join(copy, 'config.json'), 'utf8')) as Record<string, unknown>;
  edit(config);
  writeFileSync(join(copy, 'config.json'), JSON.stringify(config));
  return copy;
}

/** Largest absolute difference of two lists of the same length. */
export function worst(ours: ArrayLike<number>, theirs: ArrayLike<number>): number {
  if (ours.length !== theirs.length) return Number.POSITIVE_INFINITY;
  let most = 0;
  for (let i = 0; i < ours.length; i++) {
    const difference = Math.abs(ours[i]! - theirs[i]!);
    if (!(difference <= most)) most = difference;
  }
  return most;
}
