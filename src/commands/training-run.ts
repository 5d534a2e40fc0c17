// What `sft` and `dpo` do around training: the output folder, the log of metrics, progress, and the summary.

import { createHash } from 'node:crypto';
import { copyFileSync, createReadStream, existsSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { JsonlWriter } from '../data/jsonl.js';
import type { LengthLimit } from '../data/length.js';
import { StepwardError } from '../errors.js';
import { Progress } from '../progress.js';
import { adapterHash } from '../training/adapter-hash.js';
import { checkpointSteps, TrainingCheckpoints } from '../training/checkpoint.js';
import { saveFailure } from '../training/failure.js';
import { trainingRecord } from '../training/run.js';
import type { StepMetrics, TrainingHooks, TrainingSummary } from '../training/types.js';
import { checkOutputFolder, writeFolder } from './output.js';
import { type CommandContext, type OpenModel, peakBytes } from './shared.js';
import type { TrainingCommandOptions } from './training-options.js';

/**
 * Refuses an output folder with something in it, and a stopped training that would be written over unasked, unless
 * --overwrite is given; tells a finished training from other files.
 */
export function checkTrainingOutput(options: TrainingCommandOptions): void {
  const { output, overwrite = false, resume = false } = options;
  const checkpoints = checkpointFolder(options);
  const stopped = checkpointSteps(checkpoints).length > 0;
  if (resume && !overwrite && !stopped && existsSync(join(output, 'train.jsonl'))) {
    throw new StepwardError(
      'INVALID_ARGUMENT',
      `--resume: ${output} holds a finished training, there is nothing to go on with (--overwrite trains anew)`,
    );
  }
  checkOutputFolder(output, overwrite);
  if (stopped && !resume && !overwrite) {
    throw new StepwardError(
      'INVALID_ARGUMENT',
      `--output: ${checkpoints} holds a training that was stopped (--resume goes on with it, --overwrite starts anew)`,
    );
  }
}

/** What a training runs on. */
export interface TrainingModels {
  model: OpenModel;
  /** Undefined: the model before training, or none. */
  reference?: OpenModel | undefined;
}

/**
 * Trains, then writes model folder, train.jsonl and, with LoRA, adapter/. On the way checkpoints go to OUTPUT.checkpoint,
 * which is removed at the end. A training that a number which is not finite stops leaves OUTPUT.failed/ instead: see
 * saveFailure. `length`: what it counted goes into the summary. Resolves to that.
 */
export async function trainIntoFolder(
  label: string,
  options: TrainingCommandOptions,
  context: CommandContext,
  models: TrainingModels,
  length: LengthLimit,
  train: (hooks: TrainingHooks) => Promise<TrainingSummary>,
): Promise<object> {
  const { model } = models;
  const remark = length.remark();
  if (remark !== undefined) context.log.warn(`${label}: ${remark}`);
  // Beside the output, which does not appear where the training failed.
  const failed = `${resolve(options.output)}.failed`;
  const summary = await writeFolder(options.output, async (folder) => {
    const log = join(folder, 'train.jsonl');
    const checkpoints = await openCheckpoints(label, options, models, log);
    const metrics = new JsonlWriter(log);
    const progress = new Progress({ label, unit: 'steps' });
    try {
      for (const line of checkpoints?.logged() ?? []) metrics.write(line);
      if (checkpoints && options.resume) {
        const { done } = checkpoints;
        context.log.info(`${label}: ${done > 0 ? `goes on after step ${done}` : 'no checkpoint, from the beginning'}`);
      }
      const done = await train({
        signal: context.signal,
        ...(checkpoints && { checkpoints }),
        ...(trainsAdapter(options) && { adapterDirectory: join(folder, 'adapter'), baseModel: options.model }),
        onPlan(total) {
          progress.total = total;
        },
        onReference(step, total) {
          progress.update(0, `reference ${step}/${total}`);
        },
        onStep(values) {
          metrics.write(values);
          progress.update(values.step as number, remarkOn(values));
        },
        async onFailure(failure) {
          await saveFailure(failed, failure, (directory) => model.engine.save(directory));
          copyFileSync(log, join(failed, 'train.jsonl'));
          return `${failed} holds that micro-batch and the weights before the step`;
        },
      });
      progress.finish();
      await model.engine.save(folder);
      return done;
    } finally {
      metrics.close();
    }
  });
  rmSync(checkpointFolder(options), { recursive: true, force: true });
  context.log.info(
    `${label}: wrote ${options.output} (${summary.steps} steps, last loss ${summary.finalLoss.toFixed(4)})`,
  );
  return {
    ...trainingRecord(summary),
    ...length.counts(),
    load_seconds: model.loadSeconds,
    ...(summary.estimatedBytes !== undefined && { estimated_bytes: summary.estimatedBytes }),
    peak_bytes: peakBytes(),
  };
}

const trainsAdapter = (options: TrainingCommandOptions): boolean =>
  options.loraRank !== undefined || options.adapter !== undefined;

/** Beside the output, which appears only at the end. */
const checkpointFolder = ({ output }: TrainingCommandOptions): string => `${resolve(output)}.checkpoint`;

/** None where none are asked for. */
async function openCheckpoints(
  label: string,
  options: TrainingCommandOptions,
  models: TrainingModels,
  log: string,
): Promise<TrainingCheckpoints | undefined> {
  if (options.saveEvery === undefined && !options.resume) return undefined;
  const opened = {
    directory: checkpointFolder(options),
    every: options.saveEvery,
    fingerprint: await fingerprint(label, options, models),
    adapterOf: trainsAdapter(options) ? options.model : undefined,
    log,
  };
  return options.resume
    ? TrainingCheckpoints.resumed(models.model.engine, opened)
    : TrainingCheckpoints.fresh(models.model.engine, opened);
}

/** Options that change no result, and those that stand for files, whose contents count instead. */
const NOT_COMPARED = [
  'output',
  'overwrite',
  'resume',
  'saveEvery',
  'threads',
  'json',
  'model',
  'data',
  'adapter',
  'reference',
];

/** Files of a model folder that text becomes ids through; the output folder gets copies of them. */
const TEXT_FILES = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja'];

async function fingerprint(
  label: string,
  options: TrainingCommandOptions,
  { model, reference }: TrainingModels,
): Promise<Record<string, unknown>> {
  const compared = Object.entries(options).filter(([name]) => !NOT_COMPARED.includes(name));
  const { data, adapter } = options;
  const text: Record<string, string> = {};
  for (const name of TEXT_FILES) {
    const file = join(options.model, name);
    if (existsSync(file)) text[`hash of --model's ${name}`] = await hashOf(file);
  }
  return {
    command: label,
    ...Object.fromEntries(compared),
    'hash of --data': await hashOf(data),
    'hash of --model': await model.engine.weightsHash(),
    ...text,
    ...(reference && { 'hash of --reference': await reference.engine.weightsHash() }),
    ...(adapter !== undefined && { 'hash of --adapter': adapterHash(adapter) }),
  };
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

function remarkOn(metrics: StepMetrics): string {
  const accuracy = metrics['rewards/accuracies'];
  const won = accuracy === undefined ? '' : ` accuracy ${accuracy.toFixed(2)}`;
  return `loss ${(metrics.loss as number).toFixed(4)}${won}`;
}
