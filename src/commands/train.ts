// `stepward train`: a whole run from a recipe, M1 to Mn, into a run folder.

import { join, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import type { CommandContext, CommonOptions } from './shared.js';
import { repeatable, runCommand, wholeNumber } from './shared.js';

interface TrainCommandOptions extends Partial<CommonOptions> {
  run?: string;
  resume?: boolean;
  set?: string[];
}

export function registerTrain(program: Command): void {
  program
    .command('train')
    .description('search, judge, update and evaluate, M1 to Mn, from a recipe')
    .argument('[recipe]', 'YAML file (default: the built-in arithmetic recipe)')
    .option('--run <dir>', 'run folder (default: runs/NAME, or the next free runs/NAME-2, ...)')
    .option('--resume', 'go on with a run that was interrupted (default: the latest of NAME)')
    .option('--set <key=value>', "override a recipe's key, for example search.width=4; may be repeated", repeatable)
    .addOption(new Option('--device <device>', 'as the recipe key device').choices(['auto', 'cpu', 'cuda']))
    .addOption(new Option('--dtype <dtype>', 'as the recipe key dtype').choices(['auto', 'float32', 'bfloat16']))
    .option('--seed <n>', 'as the recipe key seed', wholeNumber(0))
    .option('--threads <n>', 'as the recipe key threads', wholeNumber(1))
    .option('--json', 'last line of stdout: the summary as one JSON object')
    .action(runCommand(run));
}

async function run(options: TrainCommandOptions, { signal, log }: CommandContext, given?: string): Promise<object> {
  const [
    { loadRecipe },
    { runRecipe },
    { openPolicy },
    { packageRoot, packageVersion },
    system,
    folder,
    { writeReport },
    view,
  ] = await Promise.all([
    import('../config/load.js'),
    import('../loop/run.js'),
    import('../loop/policy.js'),
    import('../native/load.js'),
    import('../native/system.js'),
    import('../run/folder.js'),
    import('../report/report.js'),
    import('./train-view.js'),
  ]);
  const start = performance.now();
  const overrides = [...(options.set ?? []), ...keyOverrides(options)];
  const { recipe, file } = loadRecipe(given ?? join(packageRoot, 'recipes/arithmetic.yaml'), overrides);
  const base = join('runs', recipe.name);
  const directory = resolve(
    options.run ?? (options.resume ? folder.latestDirectory(base) : folder.freshDirectory(base)),
  );
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
      format,
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
    const report = await writeReport(directory);
    const table = view.modelTable(metrics);
    const where = `run folder: ${view.relativePath(directory)}\nreport: ${view.relativePath(report)}\n`;
    (options.json ? process.stderr : process.stdout).write(`\n${table}\n${where}`);
    return { run: directory, report, models: metrics, seconds: (performance.now() - start) / 1000 };
  } catch (error) {
    stages.end();
    // What was finished before a guard or Ctrl-C is worth a look.
    if (holdsRun) {
      await writeReport(directory).catch(() => undefined);
      log.info(`what is finished: ${view.relativePath(directory)}`);
    }
    if (signal.aborted) {
      const set = overrides.flatMap((override) => ['--set', quoted(override)]);
      const words = ['stepward train', ...(given === undefined ? [] : [quoted(given)]), ...set];
      log.info(`to go on: ${[...words, '--run', quoted(view.relativePath(directory)), '--resume'].join(' ')}`);
    }
    throw error;
  }
}

/** As a shell takes it for one word. */
function quoted(word: string): string {
  return /^[\w./=:,@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** --seed 3 is --set seed=3, and so on. */
function keyOverrides(options: TrainCommandOptions): string[] {
  return (['seed', 'device', 'dtype', 'threads'] as const).flatMap((key) =>
    options[key] === undefined ? [] : [`${key}=${options[key]}`],
  );
}
