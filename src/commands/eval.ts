// `stepward eval`: accuracy on problems with answers, greedy or over several samples.

import type { Command } from 'commander';
import { checkFolder } from '../data/folder.js';
import { toJson } from '../data/jsonl.js';
import { percent } from '../data/percent.js';
import { addFormatOption, type FormatOptions, openModel } from './loop-options.js';
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
  writeStdout,
} from './shared.js';

interface EvalCommandOptions extends ModelOptions, RolloutOptions, CutOptions, FormatOptions {
  data: string;
  output?: string;
  samples: number;
  temperature?: number;
  maxNewTokens: number;
}

export function registerEval(program: Command): void {
  const command = program
    .command('eval')
    .description('accuracy on problems with answers: {problem|question, answer}')
    .requiredOption('--data <file>', 'problems, JSON lines')
    .option('--output <file>', 'a line per problem, JSON lines (default: stdout)')
    .option('--samples <k>', 'solutions per problem; above 1: mean accuracy and majority', wholeNumber(1), 1)
    .option('--temperature <t>', '0: greedy (default: 0, with --samples above 1: 0.5)', number(0));
  addCutOptions(command, 0.95).option('--max-new-tokens <n>', 'most tokens of a solution', wholeNumber(1), 2048);
  addModelOptions(addRolloutOptions(addFormatOption(command))).action(runCommand(run));
}

async function run(options: EvalCommandOptions, context: CommandContext): Promise<object> {
  const { signal, log } = context;
  const [
    { goldAnswer },
    { Grader },
    { wilsonInterval },
    { gradeSamples },
    { solveProblems },
    { readProblems },
    { fittingProblems },
    { writeJsonlFile },
    { Progress },
    { rolloutSummary },
  ] = await Promise.all([
    import('../eval/answer.js'),
    import('../eval/grader.js'),
    import('../eval/interval.js'),
    import('../eval/samples.js'),
    import('../loop/evaluate.js'),
    import('../loop/records.js'),
    import('../loop/fits.js'),
    import('./output.js'),
    import('../progress.js'),
    import('../native/rollout-summary.js'),
  ]);
  checkFolder('--model', options.model);
  checkInput('--data', options.data);
  const placed = await readProblems(options.data, true);
  const { policy, loadSeconds } = await openModel(options, context);
  const grader = new Grader();
  try {
    const { problems, answers } = fittingProblems(policy, placed);
    const before = await policy.engine.tree.counters();
    const start = performance.now();
    const { samples, topP, topK, minP, seed, maxNewTokens: maxTokens } = options;
    const temperature = options.temperature ?? (samples > 1 ? 0.5 : 0);
    const progress = new Progress({ label: 'eval', total: problems.length * samples, unit: 'solutions' });
    const onProgress = (done: number) => progress.update(done);
    const solutions = await solveProblems(policy, problems, {
      maxTokens,
      samples,
      temperature,
      topP,
      topK,
      minP,
      seed,
      signal,
      onProgress,
    });
    const records = await Promise.all(
      problems.map(async ({ id, problem }, i) => {
        const gold = goldAnswer(answers.get(String(id)) ?? '');
        const outputs = solutions[i] ?? [];
        const graded = await gradeSamples(
          outputs.map(({ answer }) => answer),
          gold,
          grader,
        );
        const of = outputs.map(({ text, answer, finish, tokens }, s) => ({
          text,
          answer,
          correct: graded.correct[s] ?? false,
          finish,
          tokens,
        }));
        return { id, problem, gold, correct: graded.majorityCorrect, answer: graded.majority, outputs: of };
      }),
    );
    progress.update(problems.length * samples);
    progress.finish();
    const seconds = (performance.now() - start) / 1000;
    if (options.output === undefined) {
      for (const record of records) await writeStdout(`${toJson(record)}\n`);
    } else {
      await writeJsonlFile(options.output, async (writer) => {
        for (const record of records) writer.write(record);
      });
    }
    const n = records.length;
    const right = records.reduce((sum, record) => sum + record.outputs.filter(({ correct }) => correct).length, 0);
    const majority = records.filter(({ correct }) => correct).length;
    // The samples of one problem are not independent: the interval counts problems.
    const correct = right / samples;
    const accuracy = n === 0 ? 0 : correct / n;
    const interval = wilsonInterval(correct, n);
    log.info(
      `accuracy ${percent(accuracy)} (95% interval ${percent(interval[0])} to ${percent(interval[1])}), ${n} problems`,
    );
    return {
      n,
      correct,
      accuracy,
      interval,
      ...(samples > 1
        ? {
            samples,
            majority: {
              correct: majority,
              accuracy: n === 0 ? 0 : majority / n,
              interval: wilsonInterval(majority, n),
            },
          }
        : {}),
      generated_tokens: records.reduce(
        (sum, record) => sum + record.outputs.reduce((of, { tokens }) => of + tokens, 0),
        0,
      ),
      rollout: rolloutSummary(before, await policy.engine.tree.counters()),
      seconds,
      load_seconds: loadSeconds,
      peak_bytes: peakBytes(),
    };
  } finally {
    await grader.close();
    await policy.dispose();
  }
}
