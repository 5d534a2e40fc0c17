// Checkpoints of a training under way: what it takes to go on after a stop as if there had been none. A checkpoint is a
// folder that appears whole: the model (or with LoRA the adapter), the optimiser's state, train.jsonl so far, and
// trainer.json. The order of the data follows from the seed and the step, so neither is kept.

import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { StepwardError } from '../errors.js';
import type { EngineLike, TrainerLike } from '../native/types.js';
import type { StepMetrics, TrainingProgress } from './types.js';

export interface CheckpointOptions {
  /** Holds one folder per checkpoint, step-N; the newest alone is kept. */
  directory: string;
  /** Optimiser steps between two checkpoints; an interruption makes one, too. Default: none are made. */
  every?: number | undefined;
  /** What must be the same for the newest checkpoint to be gone on from: JSON values by a name for messages. */
  fingerprint: Record<string, unknown>;
  /** With LoRA, the name of the base model in the adapter's config; without, the whole model is saved. */
  adapterOf?: string | undefined;
  /** train.jsonl as it is being written. */
  log: string;
}

interface Stored {
  progress: TrainingProgress;
  /** Tokens of a micro-batch: gradients are added up in its order, so another size gives other last bits. */
  microBatchTokens?: number;
  fingerprint: Record<string, unknown>;
}

const STATE = 'optimizer.safetensors';

export class TrainingCheckpoints {
  readonly #engine: EngineLike;
  readonly #options: CheckpointOptions;
  /** Folder to go on from. */
  #from: string | undefined;
  #stored: Stored | undefined;
  /** Steps in the newest. */
  #saved = 0;
  #microBatchTokens: number | undefined;

  private constructor(engine: EngineLike, options: CheckpointOptions) {
    this.#engine = engine;
    this.#options = options;
  }

  /** Checkpoints of a training that starts at the beginning; those that are there are removed. */
  static fresh(engine: EngineLike, options: CheckpointOptions): TrainingCheckpoints {
    rmSync(options.directory, { recursive: true, force: true });
    return new TrainingCheckpoints(engine, options);
  }

  /**
   * Checkpoints of a training that goes on from the newest one there; without any it starts at the beginning. Throws
   * INVALID_ARGUMENT naming what differs where that one is of another training, CHECKPOINT_INVALID where it is damaged.
   */
  static resumed(engine: EngineLike, options: CheckpointOptions): TrainingCheckpoints {
    const made = new TrainingCheckpoints(engine, options);
    const newest = checkpointSteps(options.directory).at(-1);
    if (newest === undefined) return made;
    made.#from = join(options.directory, stepName(newest));
    made.#stored = readStored(join(made.#from, 'trainer.json'));
    made.#saved = made.#stored.progress.steps;
    checkSame(made.#from, made.#stored.fingerprint, options.fingerprint);
    return made;
  }

  /** Steps that were done before; 0 at the beginning. */
  get done(): number {
    return this.#stored?.progress.steps ?? 0;
  }

  /** Metrics of the steps done before. */
  logged(): StepMetrics[] {
    if (this.#from === undefined) return [];
    const lines = readFileSync(join(this.#from, 'train.jsonl'), 'utf8').split('\n');
    return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as StepMetrics);
  }

  /** The size of micro-batches to go on with where it is chosen by the memory that is there, which changes. */
  sameBatches<W extends { microBatchTokens: number | 'auto' }>(wishes: W): W {
    const before = this.#stored?.microBatchTokens;
    return before === undefined || wishes.microBatchTokens !== 'auto'
      ? wishes
      : { ...wishes, microBatchTokens: before };
  }

  /** Call once the size of micro-batches is known. */
  keepBatches(microBatchTokens: number): void {
    this.#microBatchTokens = microBatchTokens;
  }

  /** Call once after the reference pass, which needs the model as it was before training. */
  async restore(trainer: TrainerLike, progress: TrainingProgress): Promise<void> {
    if (this.#from === undefined || this.#stored === undefined) return;
    await trainer.loadState(join(this.#from, STATE), join(this.#from, this.#parameters));
    Object.assign(progress, this.#stored.progress);
  }

  /** Call after each optimiser step and its line of train.jsonl. */
  async stepped(trainer: TrainerLike, progress: TrainingProgress): Promise<void> {
    const { every } = this.#options;
    if (every !== undefined && progress.steps % every === 0) await this.#save(trainer, progress);
  }

  /** Call where the training was interrupted, with the gradients of the step at hand dropped. */
  async interrupted(trainer: TrainerLike, progress: TrainingProgress): Promise<void> {
    if (this.#options.every !== undefined && progress.steps > this.#saved) await this.#save(trainer, progress);
  }

  async #save(trainer: TrainerLike, progress: TrainingProgress): Promise<void> {
    const { directory, fingerprint, adapterOf, log } = this.#options;
    const folder = join(directory, stepName(progress.steps));
    const part = `${folder}.partial`;
    rmSync(part, { recursive: true, force: true });
    mkdirSync(part, { recursive: true });
    const parameters = join(part, this.#parameters);
    if (adapterOf === undefined) await this.#engine.save(parameters);
    else await trainer.saveAdapter(parameters, adapterOf);
    await trainer.saveState(join(part, STATE));
    copyFileSync(log, join(part, 'train.jsonl'));
    const stored: Stored = {
      progress: pickProgress(progress),
      ...(this.#microBatchTokens !== undefined && { microBatchTokens: this.#microBatchTokens }),
      fingerprint,
    };
    writeFileSync(join(part, 'trainer.json'), `${JSON.stringify(stored, undefined, 2)}\n`);
    rmSync(folder, { recursive: true, force: true });
    renameSync(part, folder);
    this.#saved = progress.steps;
    for (const name of readdirSync(directory)) {
      if (name !== stepName(progress.steps)) rmSync(join(directory, name), { recursive: true, force: true });
    }
  }

  /** Once the training's output is written. */
  remove(): void {
    rmSync(this.#options.directory, { recursive: true, force: true });
  }

  get #parameters(): string {
    return this.#options.adapterOf === undefined ? 'model' : 'adapter';
  }
}

/** Steps of the whole checkpoints in a folder, ascending; none where there is no such folder. */
export function checkpointSteps(directory: string): number[] {
  if (!existsSync(directory)) return [];
  const steps = readdirSync(directory).flatMap((name) => /^step-(\d+)$/.exec(name)?.slice(1) ?? []);
  return steps.map(Number).sort((a, b) => a - b);
}

const stepName = (step: number): string => `step-${step}`;

function pickProgress({ steps, tokens, computedTokens, finalLoss }: TrainingProgress): TrainingProgress {
  return { steps, tokens, computedTokens, finalLoss };
}

function readStored(path: string): Stored {
  try {
    const stored = JSON.parse(readFileSync(path, 'utf8')) as Partial<Stored>;
    if (Number.isSafeInteger(stored.progress?.steps) && typeof stored.fingerprint === 'object') return stored as Stored;
  } catch (cause) {
    throw new StepwardError('CHECKPOINT_INVALID', `${path}: ${(cause as Error).message}`, { cause });
  }
  throw new StepwardError('CHECKPOINT_INVALID', `${path}: expected a training's progress and fingerprint`);
}

function checkSame(folder: string, stored: Record<string, unknown>, own: Record<string, unknown>): void {
  for (const name of new Set([...Object.keys(own), ...Object.keys(stored)])) {
    const [was, is] = [JSON.stringify(stored[name]), JSON.stringify(own[name])];
    if (was === is) continue;
    throw new StepwardError(
      'INVALID_ARGUMENT',
      `--resume: expected the training of ${folder}, whose ${name} is ${was ?? 'not set'}, got ${is ?? 'not set'}`,
    );
  }
}
