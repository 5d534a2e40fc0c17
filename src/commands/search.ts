// `stepward search`: step search over a file of problems with the model as its own judge. Writes search.jsonl and
// pairs.jsonl.

import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { type SearchConfig, type SelectConfig, searchSchema, selectSchema } from '../config/recipe.js';
import { checkFolder } from '../data/folder.js';
import { percent } from '../data/percent.js';
import { unreadVerdicts } from '../judge/unread.js';
import {
  addFormatOption,
  addJudgeOptions,
  configOf,
  type FormatOptions,
  type JudgeOptions,
  judgeConfig,
  openModel,
} from './loop-options.js';
import {
  addCutOptions,
  addModelOptions,
  addRolloutOptions,
  type CommandContext,
  type CutOptions,
  checkInput,
  type ModelOptions,
  number,
  peakBytes,
  type RolloutOptions,
  runCommand,
  wholeNumber,
} from './shared.js';

interface SearchCommandOptions extends ModelOptions, RolloutOptions, CutOptions, FormatOptions, JudgeOptions {
  input: string;
  output: string;
  overwrite?: boolean;
  width: number;
  temperature: number;
  maxSteps: number;
  maxStepTokens: number;
  merge: boolean;
  openTrees: number;
  truncated: SearchConfig['truncated'];
  strategy: SearchConfig['strategy'];
  beam: number;
  depthBonus: number;
  expansions?: number;
  minMargin: number;
  maxRollbacks: number;
  onUnanimous: SelectConfig['on_unanimous'];
  tieChosen: SelectConfig['tie_chosen'];
  tieRejected: SelectConfig['tie_rejected'];
  pairWeight: SelectConfig['pair_weight'];
}

const SEARCH = searchSchema.parse({});
const SELECT = selectSchema.parse({});

export function registerSearch(program: Command): void {
  const command = program
    .command('search')
    .description('search for solutions step by step, judged by the model itself: {id, problem, answer?}')
    .requiredOption('--input <file>', 'problems, JSON lines')
    .requiredOption('--output <dir>', 'folder for search.jsonl and pairs.jsonl')
    .option('--overwrite', 'replace files of an earlier search there')
    .option('--width <n>', 'candidates per step', wholeNumber(2), SEARCH.width)
    .option('--temperature <t>', 'of the candidates', number(0), SEARCH.temperature);
  addCutOptions(command, SEARCH.top_p)
    .option('--max-steps <n>', 'most steps of a solution', wholeNumber(1), SEARCH.max_steps)
    .option('--max-step-tokens <n>', 'most tokens of a step', wholeNumber(1), SEARCH.max_step_tokens)
    .option('--no-merge', 'keep identical candidates apart: they tie, and each counts as an opponent')
    .addOption(choice('--truncated <what>', 'steps cut off by --max-step-tokens', ['drop', 'keep'], SEARCH.truncated))
    .addOption(choice('--strategy <how>', 'which solutions go on', ['greedy', 'beam', 'best_first'], SEARCH.strategy))
    .option('--beam <n>', 'solutions kept by --strategy beam', wholeNumber(1), SEARCH.beam)
    .option('--depth-bonus <x>', 'of --strategy best_first: worth of a step taken', number(0), SEARCH.depth_bonus)
    .option(
      '--expansions <n>',
      'most steps sampled per problem by --strategy best_first (default: 3/2 of --max-steps)',
      wholeNumber(1),
    )
    .option('--open-trees <n>', 'problems searched at once', wholeNumber(1), SEARCH.open_trees)
    .option('--min-margin <wins>', 'least difference of wins for a pair', number(0), SELECT.min_margin)
    .option(
      '--max-rollbacks <n>',
      'steps back per problem where wins have no spread',
      wholeNumber(0),
      SELECT.max_rollbacks,
    )
    .addOption(
      choice('--on-unanimous <what>', 'all samples the same step', ['accept', 'rollback'], SELECT.on_unanimous),
    )
    .addOption(choice('--tie-chosen <rule>', 'equal most wins', ['count', 'logprob', 'first'], SELECT.tie_chosen))
    .addOption(choice('--tie-rejected <rule>', 'equal fewest wins', ['count', 'logprob', 'first'], SELECT.tie_rejected))
    .addOption(choice('--pair-weight <rule>', 'weight of a pair', ['one', 'margin'], SELECT.pair_weight));
  addModelOptions(addRolloutOptions(addFormatOption(addJudgeOptions(command)))).action(runCommand(run));
}

function choice(flags: string, description: string, choices: string[], value: string): Option {
  return new Option(flags, description).choices(choices).default(value);
}

async function run(options: SearchCommandOptions, context: CommandContext): Promise<object> {
  const { signal } = context;
  const [
    { Grader },
    { writeTrees },
    { searchSteps },
    { readProblems },
    { fittingProblems },
    { checkOutputFolder, writeFolder },
    { Progress },
    { rolloutSummary },
  ] = await Promise.all([
    import('../eval/grader.js'),
    import('../loop/iteration.js'),
    import('../loop/search.js'),
    import('../loop/records.js'),
    import('../loop/fits.js'),
    import('./output.js'),
    import('../progress.js'),
    import('../native/rollout-summary.js'),
  ]);
  const search = configOf(searchSchema, {
    width: options.width,
    temperature: options.temperature,
    top_p: options.topP,
    top_k: options.topK,
    min_p: options.minP,
    max_steps: options.maxSteps,
    max_step_tokens: options.maxStepTokens,
    merge: options.merge,
    truncated: options.truncated,
    strategy: options.strategy,
    beam: options.beam,
    depth_bonus: options.depthBonus,
    expansions: options.expansions,
    open_trees: options.openTrees,
  });
  const select = configOf(selectSchema, {
    min_margin: options.minMargin,
    max_rollbacks: options.maxRollbacks,
    on_unanimous: options.onUnanimous,
    tie_chosen: options.tieChosen,
    tie_rejected: options.tieRejected,
    pair_weight: options.pairWeight,
  });
  const judge = judgeConfig(options);
  checkFolder('--model', options.model);
  checkInput('--input', options.input);
  checkOutputFolder(options.output, options.overwrite ?? false, ['search.jsonl', 'pairs.jsonl']);
  const records = await readProblems(options.input);
  const { policy, loadSeconds } = await openModel(options, context, judge.mode);
  const grader = new Grader();
  try {
    const { problems, answers } = fittingProblems(policy, records);
    const before = await policy.engine.tree.counters();
    const start = performance.now();
    const progress = new Progress({ label: 'search', total: problems.length, unit: 'problems' });
    const { trees, counts } = await searchSteps(policy, problems, {
      search,
      judge,
      select,
      seed: options.seed,
      signal,
      onProgress: ({ done, open, steps }) => progress.update(done, `${open} open, ${steps} steps`),
    });
    progress.update(problems.length);
    progress.finish('');
    const seconds = (performance.now() - start) / 1000;
    const rollout = rolloutSummary(before, await policy.engine.tree.counters());
    const summary = await writeFolder(options.output, (folder) => {
      const paths = { search: join(folder, 'search.jsonl'), pairs: join(folder, 'pairs.jsonl') };
      return writeTrees(policy, trees, answers, counts, { recipe: { select }, grader }, paths);
    });
    context.log.info(
      `search: wrote ${options.output} (${summary.pairs} pairs, ${summary.verdicts} verdicts${summary.accuracy === null ? '' : `, ${percent(summary.accuracy)} of the answers right`})`,
    );
    const unread = unreadVerdicts(summary, judge);
    if (unread !== undefined) context.log.warn(unread);
    return {
      records: problems.length,
      ...summary,
      rollout,
      seconds,
      load_seconds: loadSeconds,
      peak_bytes: peakBytes(),
    };
  } finally {
    await grader.close();
    await policy.dispose();
  }
}
