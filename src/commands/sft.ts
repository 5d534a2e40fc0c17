// `stepward sft`: supervised fine-tuning on completions or chats.

import type { Command } from 'commander';
import { checkFolder } from '../data/folder.js';
import { addModelOptions, type CommandContext, checkInput, openEngine, runCommand, withoutAdapter } from './shared.js';
import { addTrainingOptions, optimizerOptions, type TrainingCommandOptions } from './training-options.js';

export interface SftCommandOptions extends TrainingCommandOptions {
  appendEos: boolean;
}

export function registerSft(program: Command): void {
  const command = program
    .command('sft')
    .description('fine-tune on {prompt, completion}, {prompt_ids, completion_ids}, {messages} or {segments}')
    .option('--no-append-eos', 'leave text completions as they are: no EOS at their end');
  addTrainingOptions(addModelOptions(command), 1e-5, 'examples').action(runCommand(run));
}

export async function run(options: SftCommandOptions, context: CommandContext): Promise<object> {
  const [
    { readSftExamples },
    { resolveOptimizer },
    { trainSft },
    { checkTrainingOutput, trainIntoFolder },
    { LengthLimit },
  ] = await Promise.all([
    import('../data/sft-records.js'),
    import('../training/options.js'),
    import('../training/sft.js'),
    import('./training-run.js'),
    import('../data/length.js'),
  ]);
  const training = resolveOptimizer(optimizerOptions(options), options.lr);
  checkFolder('--model', options.model);
  checkInput('--data', options.data);
  checkTrainingOutput(options);
  const model = await openEngine(withoutAdapter(options, context.log), context);
  try {
    const length = LengthLimit.of(model.limits.maxPositions, options.maxLength, options.tooLong);
    const examples = await readSftExamples(options.data, model.limits, { appendEos: options.appendEos, length });
    context.log.info(`sft: ${examples.length} examples`);
    return await trainIntoFolder('sft', options, context, { model }, length, (hooks) =>
      trainSft(model.engine, examples, training, hooks),
    );
  } finally {
    await model.engine.dispose();
  }
}
