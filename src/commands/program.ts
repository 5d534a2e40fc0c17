// The command line as a whole: which commands there are, and exit codes. A command's module is loaded when it is asked
// for by name; all of them only for the overview.

import { readFileSync } from 'node:fs';
import { Command, CommanderError, Help, type Option } from 'commander';
import { StepwardError, toStepwardError } from '../errors.js';
import { printError, writeError } from './shared.js';

type Register = (program: Command) => void;

const COMMANDS: Record<string, () => Promise<Register>> = {
  train: async () => (await import('./train.js')).registerTrain,
  score: async () => (await import('./score.js')).registerScore,
  generate: async () => (await import('./generate.js')).registerGenerate,
  search: async () => (await import('./search.js')).registerSearch,
  judge: async () => (await import('./judge.js')).registerJudge,
  sft: async () => (await import('./sft.js')).registerSft,
  dpo: async () => (await import('./dpo.js')).registerDpo,
  eval: async () => (await import('./eval.js')).registerEval,
  doctor: async () => registerDoctor,
};

function registerDoctor(program: Command): void {
  program
    .command('doctor')
    .description('what was found on this machine, what is wrong with it, and how to mend it')
    .option('--json', 'the findings as one JSON object on stdout')
    .action(async (options: { json?: boolean }) => {
      const { runDoctor } = await import('./doctor.js');
      process.exitCode = await runDoctor(options);
    });
}

/** Runs `stepward ARGS...`. Sets process.exitCode: 0 done, 1 failed, 2 bad usage or input, 130 interrupted. */
export async function runProgram(args: string[]): Promise<void> {
  const program = new Command('stepward')
    .description('Process-based self-rewarding training of language models')
    .version(packageVersion(), '-V, --version')
    .showHelpAfterError('(--help shows the options)')
    .configureHelp({ showGlobalOptions: false, optionDescription: describe })
    .exitOverride();
  try {
    const named = COMMANDS[args[0] ?? ''];
    for (const load of named ? [named] : Object.values(COMMANDS)) (await load())(program);
    await program.parseAsync(args, { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError) {
      // Commander has printed its message; asking for help or the version is no error.
      if (error.exitCode === 0) return;
      process.exitCode = 2;
      const message = error.message.replace(/^error: /, '');
      if (args.includes('--json')) await writeError(new StepwardError('INVALID_ARGUMENT', message));
      return;
    }
    const failure = toStepwardError(error);
    printError(failure);
    process.exitCode = failure.exitCode;
    if (args.includes('--json')) await writeError(failure);
  }
}

/** An option's line of --help: required ones say so. */
function describe(option: Option): string {
  const text = new Help().optionDescription(option);
  return option.mandatory ? `${text} (required)` : text;
}

function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
