// `stepward judge`: which of two next steps is better, asked in both orders.

import type { Command } from 'commander';
import type { Answer } from '../judge/ask.js';
import type { JudgeReport } from '../judge/report.js';
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
  type CommandContext,
  checkInput,
  type ModelOptions,
  peakBytes,
  runCommand,
} from './shared.js';

interface JudgeCommandOptions extends ModelOptions, FormatOptions, JudgeOptions {
  input: string;
  output: string;
}

export function registerJudge(program: Command): void {
  const command = program
    .command('judge')
    .description('judge pairs of next steps in both orders: {id, problem, steps, a, b, label?}')
    .requiredOption('--input <file>', 'pairs, JSON lines')
    .requiredOption('--output <file>', 'verdicts, JSON lines');
  addModelOptions(addFormatOption(addJudgeOptions(command, { orders: false }))).action(runCommand(run));
}

async function run(options: JudgeCommandOptions, { signal }: CommandContext): Promise<object> {
  const [
    { judgePairs, judgeReport, nameOf },
    { readJudgePairs },
    { emptyCounts },
    { writeJsonlFile },
    { Progress },
    { round },
  ] = await Promise.all([
    import('../judge/report.js'),
    import('../loop/records.js'),
    import('../loop/types.js'),
    import('./output.js'),
    import('../progress.js'),
    import('../loop/search-record.js'),
  ]);
  const judge = judgeConfig(options);
  checkInput('--input', options.input);
  const pairs = await readJudgePairs(options.input);
  const { policy, loadSeconds } = await openModel(options, signal);
  try {
    const start = performance.now();
    const progress = new Progress({ label: 'judge', total: 2 * pairs.length, unit: 'verdicts' });
    const counts = emptyCounts();
    const onProgress = (done: number) => progress.update(done);
    const answers = await judgePairs(policy, pairs, { judge, seed: options.seed, signal, onProgress }, counts);
    progress.update(2 * pairs.length);
    progress.finish();
    const seconds = (performance.now() - start) / 1000;
    await writeJsonlFile(options.output, async (writer) => {
      for (const [i, { id }] of pairs.entries()) {
        const orders = answers[i] as [Answer, Answer];
        const votes = orders.map(({ winner, pFirst, critique }, order) => ({
          first: order === 0 ? 'a' : 'b',
          winner: nameOf(winner, order) ?? winner,
          p_first: pFirst === null ? null : round(pFirst),
          ...(critique === undefined ? {} : { critique }),
        }));
        writer.write({ id, winner: overall(votes.map((vote) => vote.winner)), votes });
      }
    });
    const labelled = [...pairs.keys()].filter((i) => pairs[i]?.label !== undefined);
    const every = judgeReport(
      pairs.map(({ label }) => label ?? 'a'),
      answers,
    );
    const report: Partial<JudgeReport> = judgeReport(
      labelled.map((i) => pairs[i]?.label as 'a' | 'b'),
      labelled.map((i) => answers[i] as [Answer, Answer]),
    );
    return {
      records: pairs.length,
      labelled: labelled.length,
      ...(labelled.length === 0
        ? {}
        : { accuracy: report.accuracy, consistent_accuracy: report.consistent_accuracy, interval: report.interval }),
      flip_rate: every.flip_rate,
      first_rate: every.first_rate,
      parse_failures: answers.flat().filter(({ winner }) => winner === 'invalid').length,
      judge_prompt_tokens: counts.judge_prompt_tokens,
      judge_generated_tokens: counts.judge_generated_tokens,
      computed_tokens: counts.computed_tokens,
      prefix_free_tokens: counts.prefix_free_tokens,
      seconds,
      load_seconds: loadSeconds,
      peak_bytes: peakBytes(),
    };
  } finally {
    await policy.dispose();
  }
}

/** Two orders to one winner: the one with more votes; equal votes tie; no usable vote is invalid. */
function overall(votes: readonly string[]): 'a' | 'b' | 'tie' | 'invalid' {
  if (votes.every((vote) => vote === 'invalid')) return 'invalid';
  const count = (name: string) => votes.filter((vote) => vote === name).length;
  if (count('a') === count('b')) return 'tie';
  return count('a') > count('b') ? 'a' : 'b';
}
