// Options that the loop's commands share: the prompt format, the judge, and opening a model with its prompts.

import { type Command, Option } from 'commander';
import type { z } from 'zod';
import { describeIssues } from '../config/issues.js';
import { type JudgeConfig, judgeSchema } from '../config/recipe.js';
import { StepwardError } from '../errors.js';
import type { Policy } from '../loop/policy.js';
import {
  adapterOptions,
  type CommandContext,
  kvBudget,
  type ModelOptions,
  number,
  type RolloutOptions,
  wholeNumber,
} from './shared.js';

export interface FormatOptions {
  format?: string;
}

export interface JudgeOptions {
  judge: JudgeConfig['mode'];
  orders?: JudgeConfig['orders'];
  pairing?: JudgeConfig['pairing'];
  rounds?: number;
  judgeTemperature: number;
  judgeMaxTokens: number;
}

const JUDGE = judgeSchema.parse({});

export function addFormatOption(command: Command): Command {
  return command.option(
    '--format <file>',
    "prompt format, JSON or YAML (default: the model's stepward.json, else built in)",
  );
}

/**
 * --judge --judge-temperature --judge-max-tokens; where `contests` of several candidates are judged --orders --pairing
 * --rounds too.
 */
export function addJudgeOptions(command: Command, { contests = true } = {}): Command {
  command
    .addOption(
      new Option('--judge <mode>', 'critique: reasons, then the verdict; readout: label probabilities')
        .choices(['critique', 'readout'])
        .default(JUDGE.mode),
    )
    .option('--judge-temperature <t>', '0: greedy', number(0), JUDGE.temperature)
    .option('--judge-max-tokens <n>', 'longest critique', wholeNumber(1), JUDGE.max_tokens);
  if (!contests) return command;
  const orders = new Option('--orders <orders>', 'both: every pair in both orders; random: one order per pair');
  const pairing = new Option('--pairing <how>', 'which candidates meet: every pair, or fewer in rounds');
  return command
    .addOption(orders.choices(['both', 'random']).default(JUDGE.orders))
    .addOption(pairing.choices(['all', 'swiss', 'knockout']).default(JUDGE.pairing))
    .option('--rounds <n>', 'of --pairing swiss (default: log2 of the candidates, rounded up)', wholeNumber(1));
}

export function judgeConfig(options: JudgeOptions): JudgeConfig {
  return configOf(judgeSchema, {
    mode: options.judge,
    orders: options.orders,
    pairing: options.pairing,
    rounds: options.rounds,
    temperature: options.judgeTemperature,
    max_tokens: options.judgeMaxTokens,
  });
}

/** A part of the recipe made from options: the same checks, the option's name in the message. */
export function configOf<T>(schema: z.ZodType<T>, value: object): T {
  const result = schema.safeParse(value);
  if (!result.success) {
    const place = (path: readonly PropertyKey[]) => `--${String(path[0]).replaceAll('_', '-')}`;
    throw new StepwardError('INVALID_ARGUMENT', describeIssues(result.error, schema, value, place));
  }
  return result.data;
}

export interface OpenedPolicy {
  policy: Policy;
  loadSeconds: number;
}

/** Loads a model folder with its tokenizer and prompts. `judge`: how it will judge. Dispose the policy when done. */
export async function openModel(
  options: ModelOptions & RolloutOptions & FormatOptions,
  { signal, log }: CommandContext,
  judge?: JudgeConfig['mode'],
): Promise<OpenedPolicy> {
  const start = performance.now();
  const [{ openPolicy }, { readFormat }, { setThreads }] = await Promise.all([
    import('../loop/policy.js'),
    import('../prompts/load.js'),
    import('../native/system.js'),
  ]);
  const format = options.format === undefined ? undefined : readFormat(options.format);
  if (options.threads !== undefined) setThreads(options.threads);
  const { model: directory, device, dtype } = options;
  const policy = await openPolicy(
    { directory, device, dtype, signal, ...adapterOptions(options, log), ...kvBudget(options) },
    { format, judge },
  );
  return { policy, loadSeconds: (performance.now() - start) / 1000 };
}
