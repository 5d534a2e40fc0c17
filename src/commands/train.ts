// `stepward train`: a whole run from a recipe, M1 to Mn, into a run folder.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import type { CommandContext } from './shared.js';
import { repeatable, runCommand, wholeNumber } from './shared.js';
import type { RunChoice } from './train-recipe.js';

export function registerTrain(program: Command): void {
  program
    .command('train')
    .description('search, judge, update and evaluate, M1 to Mn, from a recipe')
    .argument('[recipe]', 'YAML file (default: the built-in arithmetic recipe)')
    .option('--run <dir>', 'run folder (default: runs/NAME, or the next free runs/NAME-2, ...)')
    .option('--resume', 'go on with a run (default: the latest of NAME; without a recipe the latest of all)')
    .option('--model <dir>', 'as the recipe key model')
    .option('--set <key=value>', "override a recipe's key, for example search.width=4; may be repeated", repeatable)
    .addOption(new Option('--device <device>', 'as the recipe key device').choices(['auto', 'cpu', 'cuda']))
    .addOption(new Option('--dtype <dtype>', 'as the recipe key dtype').choices(['auto', 'float32', 'bfloat16']))
    .option('--seed <n>', 'as the recipe key seed', wholeNumber(0))
    .option('--threads <n>', 'as the recipe key threads', wholeNumber(1))
    .option('--json', 'last line of stdout: the summary as one JSON object')
    .action(runCommand(run));
}

async function run(options: RunChoice, { signal, log }: CommandContext, given?: string): Promise<object> {
  const [{ chooseRun }, { runRecipe }, { openPolicy }, { packageVersion }, system, view] = await Promise.all([
    import('./train-recipe.js'),
    import('../loop/run.js'),
    import('../loop/policy.js'),
    import('../native/load.js'),
    import('../native/system.js'),
    import('./train-view.js'),
  ]);
  const start = performance.now();
  const { recipe, file, directory } = chooseRun(given, options);
  if (recipe.threads !== undefined) system.setThreads(recipe.threads);
  const { torch, threads, cudaAvailable, cpuCapability } = system.systemInfo();
  log.info(`${view.relativePath(file)} into ${view.relativePath(directory)}, seed ${recipe.seed}`);
  const { device, dtype } = recipe;
  const open = ({ directory: model, initSeed, format }: Parameters<Parameters<typeof runRecipe>[0]['open']>[0]) =>
    openPolicy(
      {
        directory: model,
        device,
        dtype,
        kvBudgetBytes: recipe.kv_budget_mib * 2 ** 20,
        ...(initSeed === undefined ? {} : { initSeed }),
        signal,
      },
      { format, judge: recipe.judge.mode },
    );
  const stages = new view.StageProgress();
  let holdsRun = false;
  try {
    const metrics = await runRecipe({
      recipe,
      directory,
      resume: options.resume ?? false,
      hooks: {
        signal,
        log: (line) => stages.line(() => log.info(line)),
        warn: (line) => stages.line(() => log.warn(line)),
        progress: (stage, done, total, note) => {
          holdsRun = true;
          stages.show(stage, done, total, note);
        },
      },
      open,
      machine: {
        versions: { stepward: packageVersion, node: process.versions.node, torch },
        device: device === 'auto' ? (cudaAvailable ? 'cuda' : 'cpu') : device,
        cpu_capability: cpuCapability,
        threads,
      },
    });
    stages.end();
    const report = await reportOf(directory, log);
    const table = view.modelTable(metrics);
    const where = `run folder: ${view.relativePath(directory)}\n`;
    const shown = report === undefined ? '' : `report: ${view.relativePath(report)}\n`;
    (options.json ? process.stderr : process.stdout).write(`\n${table}\n${where}${shown}`);
    return { run: directory, report: report ?? null, models: metrics, seconds: (performance.now() - start) / 1000 };
  } catch (error) {
    stages.end();
    // What was finished before a guard or Ctrl-C is worth a look.
    if (holdsRun) {
      await reportOf(directory, log);
      log.info(`what is finished: ${view.relativePath(directory)}`);
    }
    if (signal.aborted && existsSync(join(directory, 'run.json'))) {
      log.info(`to go on: stepward train --run ${quoted(view.relativePath(directory))} --resume`);
    }
    throw error;
  }
}

/** Writes the report; its path. A run that is over does not fail for want of one. */
async function reportOf(directory: string, log: CommandContext['log']): Promise<string | undefined> {
  const { writeReport } = await import('../report/report.js');
  try {
    return await writeReport(directory);
  } catch (error) {
    log.warn(`no report: ${(error as Error).message}`);
    return undefined;
  }
}

/** As a shell takes it for one word. */
function quoted(word: string): string {
  return /^[\w./=:,@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
