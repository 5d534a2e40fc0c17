// `stepward judge`: which of two next steps is better, asked in both orders.

import type { Command } from 'commander';
import { checkFolder } from '../data/folder.js';
import { percent } from '../data/percent.js';
import type { BothOrders } from '../judge/report.js';
import { unreadVerdicts } from '../judge/unread.js';
import {
  addFormatOption,
  addJudgeOptions,
  type FormatOptions,
  type JudgeOptions,
  judgeConfig,
  openModel,
} from './loop-options.js';
import {
  addModelOptions,
  addRolloutOptions,
  type CommandContext,
  checkInput,
  type ModelOptions,
  peakBytes,
  type RolloutOptions,
  runCommand,
} from './shared.js';

interface JudgeCommandOptions extends ModelOptions, RolloutOptions, FormatOptions, JudgeOptions {
  input: string;
  output: string;
}

export function registerJudge(program: Command): void {
  const command = program
    .command('judge')
    .description('judge pairs of next steps in both orders: {id, problem, steps, a, b, label?}')
    .requiredOption('--input <file>', 'pairs, JSON lines')
    .requiredOption('--output <file>', 'verdicts, JSON lines');
  addModelOptions(addRolloutOptions(addFormatOption(addJudgeOptions(command, { contests: false })))).action(
    runCommand(run),
  );
}

async function run(options: JudgeCommandOptions, context: CommandContext): Promise<object> {
  const { signal } = context;
  const [
    { judgeBias, judgePairs, judgeReport, nameOf, pairWinner },
    { readJudgePairs },
    { fittingPairs },
    { emptyCounts },
    { writeJsonlFile },
    { Progress },
    { answerRecord },
    { rolloutSummary },
  ] = await Promise.all([
    import('../judge/report.js'),
    import('../loop/example-records.js'),
    import('../loop/fits.js'),
    import('../loop/types.js'),
    import('./output.js'),
    import('../progress.js'),
    import('../loop/search-record.js'),
    import('../native/rollout-summary.js'),
  ]);
  const judge = judgeConfig(options);
  checkFolder('--model', options.model);
  checkInput('--input', options.input);
  const records = await readJudgePairs(options.input);
  const { policy, loadSeconds } = await openModel(options, context, judge.mode);
  try {
    const pairs = fittingPairs(policy, records, judge.mode);
    const before = await policy.engine.tree.counters();
    const start = performance.now();
    const progress = new Progress({ label: 'judge', total: 2 * pairs.length, unit: 'verdicts' });
    const counts = emptyCounts();
    const onProgress = (done: number) => progress.update(done);
    const answers = await judgePairs(policy, pairs, { judge, seed: options.seed, signal, onProgress }, counts);
    progress.update(2 * pairs.length);
    progress.finish();
    const seconds = (performance.now() - start) / 1000;
    const rollout = rolloutSummary(before, await policy.engine.tree.counters());
    await writeJsonlFile(options.output, async (writer) => {
      for (const [i, { id }] of pairs.entries()) {
        const orders = answers[i] as BothOrders;
        const votes = orders.map(({ winner, ...answer }, order) => ({
          first: order === 0 ? 'a' : 'b',
          winner: nameOf(winner, order) ?? winner,
          ...answerRecord(answer),
        }));
        writer.write({ id, winner: pairWinner(orders), votes });
      }
    });
    const labelled = pairs.flatMap(({ label }, i) =>
      label === undefined ? [] : [{ label, orders: answers[i] as BothOrders }],
    );
    const report = judgeReport(
      labelled.map(({ label }) => label),
      labelled.map(({ orders }) => orders),
    );
    context.log.info(
      `judge: wrote ${options.output}${labelled.length === 0 ? '' : ` (${percent(report.pair_accuracy)} of ${labelled.length} labelled pairs right in both orders)`}`,
    );
    const bias = judgeBias(answers);
    const unread = unreadVerdicts({ ...bias, verdicts: 2 * pairs.length }, judge);
    if (unread !== undefined) context.log.warn(unread);
    return {
      records: pairs.length,
      labelled: labelled.length,
      ...(labelled.length === 0
        ? {}
        : {
            accuracy: report.pair_accuracy,
            interval: report.pair_interval,
            verdict_accuracy: report.verdict_accuracy,
            verdict_interval: report.verdict_interval,
          }),
      ...bias,
      judge_prompt_tokens: counts.judge_prompt_tokens,
      judge_generated_tokens: counts.judge_generated_tokens,
      computed_tokens: rollout.computed_tokens,
      prefix_free_tokens: rollout.prefix_free_tokens,
      rollout,
      seconds,
      load_seconds: loadSeconds,
      peak_bytes: peakBytes(),
    };
  } finally {
    await policy.dispose();
  }
}
