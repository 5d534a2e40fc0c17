// What every command shares: common options, their checks, opening a model, and turning an outcome into output and an
// exit code. Nothing heavy is imported before a command runs, so that --help is quick.

import { statSync } from 'node:fs';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { TextCodec } from '../data/codec.js';
import { checkFolder } from '../data/folder.js';
import type { RecordLimits } from '../data/records.js';
import { StepwardError, toStepwardError } from '../errors.js';
import type { Log } from '../log.js';
import type { Engine } from '../native/engine.js';
import { DEFAULT_KV_BUDGET_MIB } from '../native/options.js';
import { peakMemory } from '../training/peak-memory.js';
import { otherBaseRemark } from './adapter-base.js';

export interface CommonOptions {
  device: 'auto' | 'cpu' | 'cuda';
  dtype: 'auto' | 'float32' | 'bfloat16';
  seed: number;
  threads?: number;
  json?: boolean;
}

export interface ModelOptions extends CommonOptions {
  model: string;
  /** Folder of a LoRA adapter. */
  adapter?: string;
  allowOtherBase?: boolean;
}

/** Of the commands that sample, judge or score. */
export interface RolloutOptions {
  kvBudgetMib: number;
}

/** Which tokens may be drawn. */
export interface CutOptions {
  topP: number;
  topK: number;
  minP: number;
}

/** What a command's run gets beside its options. */
export interface CommandContext {
  /** Aborts at the first Ctrl-C. */
  signal: AbortSignal;
  log: Log;
}

/** --device --dtype --seed --threads --json. */
export function addCommonOptions(command: Command): Command {
  return command
    .addOption(new Option('--device <device>', 'where to compute').choices(['auto', 'cpu', 'cuda']).default('auto'))
    .addOption(
      new Option('--dtype <dtype>', 'weights and compute').choices(['auto', 'float32', 'bfloat16']).default('auto'),
    )
    .option('--seed <n>', 'seed of everything random', wholeNumber(0), 0)
    .option('--threads <n>', 'CPU threads (default: what the machine offers)', wholeNumber(1))
    .option('--json', 'last line of stdout: the summary as one JSON object');
}

/** --model --adapter --allow-other-base and the common options. */
export function addModelOptions(command: Command): Command {
  return addCommonOptions(
    command
      .requiredOption('--model <dir>', 'model folder in Hugging Face form')
      .option('--adapter <dir>', "LoRA adapter of the model, PEFT's files")
      .option('--allow-other-base', 'take the adapter also where it was trained on other base weights'),
  );
}

/** Engine options for the adapter, checked; warns where it seems to be another model's. */
export function adapterOptions(
  { model, adapter, allowOtherBase }: Pick<ModelOptions, 'model'> & Partial<ModelOptions>,
  log: Log,
): Partial<ModelOptions> {
  if (adapter === undefined) return {};
  checkFolder('--adapter', adapter, 'a folder of adapter_config.json and adapter_model.safetensors');
  const remark = allowOtherBase ? undefined : otherBaseRemark(model, adapter);
  if (remark !== undefined) log.warn(remark);
  return { adapter, ...(allowOtherBase && { allowOtherBase }) };
}

/** --kv-budget-mib. */
export function addRolloutOptions(command: Command): Command {
  return command.option(
    '--kv-budget-mib <n>',
    'memory for keys and values, in MiB',
    wholeNumber(1),
    DEFAULT_KV_BUDGET_MIB,
  );
}

/** --top-p --top-k --min-p; top-p's default differs. */
export function addCutOptions(command: Command, topP = 1): Command {
  return command
    .option('--top-p <p>', 'keep the likeliest tokens of this mass, 1: all', positiveShare, topP)
    .option('--top-k <k>', 'keep the k likeliest tokens, 0: all', wholeNumber(0), 0)
    .option('--min-p <p>', 'keep tokens at least p times as likely as the likeliest, 0: all', number(0, 1), 0);
}

/** Option parser: a number above 0, at most 1. */
function positiveShare(text: string): number {
  const value = number()(text);
  if (value <= 0 || value > 1) throw new InvalidArgumentError(`Expected a number above 0, at most 1, got ${text}.`);
  return value;
}

/** As the engine takes it. */
export function kvBudget({ kvBudgetMib }: Partial<RolloutOptions>): { kvBudgetBytes?: number } {
  return kvBudgetMib === undefined ? {} : { kvBudgetBytes: kvBudgetMib * 2 ** 20 };
}

/** Option parser: a whole number of at least `low`. */
export function wholeNumber(low: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isSafeInteger(value) || value < low) {
      throw new InvalidArgumentError(`Expected a whole number of at least ${low}, got ${text}.`);
    }
    return value;
  };
}

/** Option parser: a number within bounds, both allowed. */
export function number(low = Number.NEGATIVE_INFINITY, high = Number.POSITIVE_INFINITY): (text: string) => number {
  const range =
    high < Number.POSITIVE_INFINITY
      ? ` from ${low} to ${high}`
      : low > Number.NEGATIVE_INFINITY
        ? ` of at least ${low}`
        : '';
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value < low || value > high) {
      throw new InvalidArgumentError(`Expected a number${range}, got ${text}.`);
    }
    return value;
  };
}

/** Option parser for options that may be given several times. */
export function repeatable(text: string, previous: string[] = []): string[] {
  return [...previous, text];
}

/**
 * Makes a commander action of `run(options, context, ...positionals)`. What it resolves to is the summary: printed as
 * JSON on stdout with --json. A failure is printed on stderr and sets the exit code; the process then ends by itself.
 */
export function runCommand<O extends { json?: boolean }>(
  run: (options: O, context: CommandContext, ...positionals: never[]) => Promise<object>,
): (...args: unknown[]) => Promise<void> {
  return async (...args) => {
    const command = args.at(-1) as Command;
    const options = command.opts<O>();
    const { createLog } = await import('../log.js');
    const signal = interruption();
    const context = { signal, log: createLog() };
    try {
      const summary = await run(options, context, ...(args.slice(0, -2) as never[]));
      if (options.json) await writeStdout(`${JSON.stringify(summary)}\n`);
    } catch (thrown) {
      const error = signal.aborted ? cancelled(thrown) : toStepwardError(thrown);
      process.exitCode = error.exitCode;
      printError(error);
      if (options.json) await writeError(error);
    }
  };
}

function cancelled(thrown: unknown): StepwardError {
  const error = toStepwardError(thrown);
  const detail = error.code === 'CANCELLED' ? '' : ` (${error.message})`;
  return new StepwardError('CANCELLED', `interrupted${detail}`, { cause: thrown });
}

export function printError(error: StepwardError): void {
  const detail = error.code === 'INTERNAL' || process.env.STEPWARD_DEBUG ? `\n${error.stack}` : '';
  // A progress bar may stand half drawn on the line.
  const clear = process.stderr.isTTY ? '\r\x1b[2K' : '';
  process.stderr.write(`${clear}stepward: ${error.message} [${error.code}]${detail}\n`);
}

/** A failure as the summary that --json prints. */
export function writeError({ code, message }: StepwardError): Promise<void> {
  return writeStdout(`${JSON.stringify({ error: { code, message } })}\n`);
}

/**
 * Aborts at the first SIGINT or SIGTERM; the second ends the process. The handlers stay until the process is gone:
 * without them a second signal that comes while the work is being given up would kill it instead of ending it with 130.
 */
function interruption(): AbortSignal {
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(130);
    process.stderr.write('\nstepward: interrupted; finishing the step at hand (again: stop at once)\n');
    controller.abort(new StepwardError('CANCELLED', 'interrupted'));
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  return controller.signal;
}

export function writeStdout(text: string): Promise<void> {
  return new Promise((resolve) => process.stdout.write(text, () => resolve()));
}

export interface OpenModel {
  engine: Engine;
  /** Undefined where the folder has no tokenizer. */
  codec: TextCodec | undefined;
  limits: RecordLimits;
  loadSeconds: number;
}

/**
 * Loads a model folder: weights into an engine, with the adapter merged into them, tokenizer into a codec. Dispose the
 * engine when done. `name`: the option that gave the folder.
 */
export async function openEngine(
  options: Pick<ModelOptions, 'model'> & Partial<ModelOptions & RolloutOptions>,
  { signal, log }: CommandContext,
  name = '--model',
): Promise<OpenModel> {
  const start = performance.now();
  checkFolder(name, options.model);
  const [{ Engine }, { setThreads }, { loadCodec }] = await Promise.all([
    import('../native/engine.js'),
    import('../native/system.js'),
    import('../data/tokenizer.js'),
  ]);
  if (options.threads !== undefined) setThreads(options.threads);
  const codec = await loadCodec(options.model);
  const { model: directory, device, dtype } = options;
  const engine = await Engine.load({
    directory,
    device,
    dtype,
    ...adapterOptions(options, log),
    ...kvBudget(options),
    signal,
  });
  const { vocabSize, maxPositions } = engine.info;
  return {
    engine,
    codec,
    limits: { directory, codec, vocabSize, maxPositions },
    loadSeconds: (performance.now() - start) / 1000,
  };
}

/** Throws FILE_NOT_FOUND before any work where an input file is missing. */
export function checkInput(option: string, path: string): void {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (!stats) throw new StepwardError('FILE_NOT_FOUND', `${option}: ${path} does not exist`);
  if (stats.isDirectory())
    throw new StepwardError('INVALID_ARGUMENT', `${option}: expected a file, got the folder ${path}`);
}

/** To train: the model without its adapter, which the trainer puts on. */
export function withoutAdapter<O extends ModelOptions>(options: O, log: Log): Omit<O, 'adapter' | 'allowOtherBase'> {
  const { adapter, allowOtherBase, ...rest } = options;
  adapterOptions(options, log);
  return rest;
}

/** Most memory this process held so far, in bytes. */
export function peakBytes(): number {
  return peakMemory() ?? process.resourceUsage().maxRSS * 1024;
}
