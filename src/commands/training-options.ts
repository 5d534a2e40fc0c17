// Options that `sft` and `dpo` share, and their way to OptimizerOptions.

import { type Command, Option } from 'commander';
import { TOO_LONG, type TooLong } from '../data/length.js';
import { StepwardError } from '../errors.js';
import { CHECKPOINTS, type CheckpointChoice } from '../training/memory.js';
import { OPTIMIZERS, SCHEDULES, SHARING } from '../training/options.js';
import type { OptimizerOptions, ScheduleKind } from '../training/types.js';
import { type ModelOptions, number, wholeNumber } from './shared.js';

export interface TrainingCommandOptions extends ModelOptions {
  data: string;
  output: string;
  overwrite?: boolean;
  optimizer: 'adamw' | 'sgd';
  lr: number;
  schedule: ScheduleKind;
  warmup: number;
  batchSize: number;
  epochs: number;
  maxSteps?: number;
  maxGradNorm?: number;
  weightDecay: number;
  microBatchTokens: number | 'auto';
  checkpointLayers: CheckpointChoice;
  memoryLimitMib?: number;
  sharing: 'auto' | 'on' | 'off';
  maxLength?: number;
  tooLong: TooLong;
  shuffle: boolean;
  loraRank?: number;
  loraAlpha?: number;
  loraTargets?: string[];
  freeze?: string[];
  saveEvery?: number;
  resume?: boolean;
}

export function addTrainingOptions(command: Command, defaultLearningRate: number, counted: string): Command {
  return command
    .requiredOption('--data <file>', 'training records, JSON lines')
    .requiredOption('--output <dir>', 'new folder for the trained model and train.jsonl')
    .option('--overwrite', 'allow an output folder that has files in it')
    .addOption(new Option('--optimizer <name>', 'optimiser').choices(OPTIMIZERS).default('adamw'))
    .option('--lr <rate>', 'peak learning rate', number(0), defaultLearningRate)
    .addOption(new Option('--schedule <name>', 'learning rate after warm-up').choices(SCHEDULES).default('linear'))
    .option('--warmup <n>', 'warm-up: below 1 a share of the steps, else steps', number(0), 0)
    .option('--batch-size <n>', `${counted} per optimiser step`, wholeNumber(1), 32)
    .option('--epochs <n>', 'passes over the data', number(0), 1)
    .option('--max-steps <n>', 'optimiser steps; overrides --epochs', wholeNumber(1))
    .option(
      '--max-grad-norm <norm>',
      'clip gradients to this global norm, 0: never (default: 1, with sgd 0)',
      number(0),
    )
    .option('--weight-decay <x>', 'decoupled weight decay of matrices', number(0), 0)
    .option(
      '--micro-batch-tokens <n>',
      'tokens per forward pass, or auto: what memory has room for',
      autoOr(wholeNumber(1)),
      'auto',
    )
    .addOption(
      new Option('--checkpoint-layers <when>', 'run layers again in the backward pass to save memory')
        .choices(CHECKPOINTS)
        .default('auto'),
    )
    .option('--memory-limit-mib <n>', 'most memory that the process may take (default: what is free)', wholeNumber(1))
    .addOption(
      new Option('--sharing <how>', 'compute common prefixes once: where it pays, always or never')
        .choices(SHARING)
        .default('auto'),
    )
    .option('--max-length <n>', "most tokens of a record (default: the model's positions)", wholeNumber(2))
    .addOption(
      new Option('--too-long <what>', 'longer records: refuse the file, or cut whole steps from the end and count them')
        .choices(TOO_LONG)
        .default('refuse'),
    )
    .option('--no-shuffle', 'take the records in file order')
    .option('--lora-rank <n>', 'train LoRA adapters of this rank instead of the weights', wholeNumber(1))
    .option('--lora-alpha <x>', 'LoRA scale is alpha / rank (default: 2 * rank)', number(0))
    .option(
      '--lora-targets <names>',
      'comma-separated layers, e.g. q_proj,lm_head (default: the seven of a block)',
      list,
    )
    .option('--freeze <patterns>', 'comma-separated names of weights not to train, e.g. model.embed_tokens.*', list)
    .option('--save-every <n>', 'optimiser steps between checkpoints in OUTPUT.checkpoint', wholeNumber(1))
    .option('--resume', 'go on from the newest checkpoint in OUTPUT.checkpoint');
}

/** Option parser: names with commas between them. */
function list(text: string): string[] {
  return text.split(',').map((name) => name.trim());
}

function autoOr(parse: (value: string) => number): (value: string) => number | 'auto' {
  return (value) => (value === 'auto' ? value : parse(value));
}

export function optimizerOptions(options: TrainingCommandOptions): OptimizerOptions {
  const { lr, loraRank, loraAlpha, loraTargets, memoryLimitMib, ...rest } = options;
  if (options.adapter !== undefined && [loraRank, loraAlpha, loraTargets].some((value) => value !== undefined)) {
    throw new StepwardError('INVALID_ARGUMENT', '--adapter: expected no --lora options beside it, it has its own rank');
  }
  if (loraRank === undefined && (loraAlpha !== undefined || loraTargets !== undefined)) {
    const given = loraAlpha === undefined ? '--lora-targets' : '--lora-alpha';
    throw new StepwardError('INVALID_ARGUMENT', `${given}: expected --lora-rank beside it, which is missing`);
  }
  return {
    ...rest,
    learningRate: lr,
    ...(memoryLimitMib !== undefined && { memoryLimit: memoryLimitMib * 2 ** 20 }),
    ...(loraRank !== undefined && {
      lora: {
        rank: loraRank,
        ...(loraAlpha !== undefined && { alpha: loraAlpha }),
        ...(loraTargets !== undefined && { targets: loraTargets }),
      },
    }),
  };
}
