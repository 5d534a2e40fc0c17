// `stepward dpo`: step-wise preference training on pairs or trees.

import { type Command, Option } from 'commander';
import { checkFolder } from '../data/folder.js';
import { StepwardError } from '../errors.js';
import type { PreferenceLossKind } from '../native/types.js';
import { LOSSES } from '../training/options.js';
import {
  addModelOptions,
  type CommandContext,
  checkInput,
  number,
  openEngine,
  runCommand,
  withoutAdapter,
} from './shared.js';
import { addTrainingOptions, optimizerOptions, type TrainingCommandOptions } from './training-options.js';

export interface DpoCommandOptions extends TrainingCommandOptions {
  beta?: number;
  loss: PreferenceLossKind;
  labelSmoothing: number;
  gamma?: number;
  mix: number;
  sftWeight: number;
  reference?: string;
  /** false: none. */
  referenceCache?: string | false;
}

export function registerDpo(program: Command): void {
  const command = program
    .command('dpo')
    .description(
      'train on preferred steps: {prompt, chosen, rejected, weight?, mix?}, _ids forms, Step-DPO records or trees',
    )
    .option('--beta <x>', 'strength of the pull to the reference, above 0 (default: 0.1, with simpo 2)', number())
    .addOption(new Option('--loss <name>', 'loss').choices(LOSSES).default('sigmoid'))
    .option('--label-smoothing <x>', 'share of pairs taken to be the wrong way round, below 0.5', number(0), 0)
    .option('--gamma <x>', 'margin that the chosen step is to be ahead by, of simpo (default: 0.5)', number(0))
    .option('--mix <x>', 'share of the loss that each pair has this way round, where it has no mix', number(0, 1), 1)
    .option('--sft-weight <x>', "weight of the chosen steps' mean negative log-prob", number(0), 0)
    .option('--reference <dir>', 'model folder of the reference (default: the model before training)')
    .option('--reference-cache <dir>', 'where reference log-probs are kept (default: ~/.cache/stepward/reference)')
    .option('--no-reference-cache', 'keep no reference log-probs and look none up');
  addTrainingOptions(addModelOptions(command), 1e-6, 'pairs').action(runCommand(run));
}

export async function run(options: DpoCommandOptions, context: CommandContext): Promise<object> {
  const [
    { readPreferenceTrees },
    { resolvePreference },
    { trainPreference },
    { usesReference },
    { checkTrainingOutput, trainIntoFolder },
    { LengthLimit },
    { referenceCache },
    { checkReference },
  ] = await Promise.all([
    import('../data/preference-records.js'),
    import('../training/options.js'),
    import('../training/preference.js'),
    import('../training/losses/pair-loss.js'),
    import('./training-run.js'),
    import('../data/length.js'),
    import('./reference-options.js'),
    import('./check-reference.js'),
  ]);
  const { beta, loss, labelSmoothing, gamma, mix, sftWeight } = options;
  const training = resolvePreference({
    ...optimizerOptions(options),
    loss,
    labelSmoothing,
    mix,
    sftWeight,
    ...(beta !== undefined && { beta }),
    ...(gamma !== undefined && { gamma }),
  });
  if (options.reference !== undefined && !usesReference(training.loss)) {
    throw new StepwardError(
      'INVALID_ARGUMENT',
      `--reference: expected none beside --loss ${loss}, which has no reference`,
    );
  }
  checkFolder('--model', options.model);
  checkInput('--data', options.data);
  checkTrainingOutput(options);
  const model = await openEngine(withoutAdapter(options, context.log), context);
  try {
    const length = LengthLimit.of(model.limits.maxPositions, options.maxLength, options.tooLong);
    const trees = await readPreferenceTrees(options.data, model.limits, length);
    context.log.info(`dpo: ${trees.length} records`);
    const cache = referenceCache(options.referenceCache);
    const { reference: directory, device, dtype } = options;
    const reference =
      directory === undefined
        ? undefined
        : await openEngine({ model: directory, device, dtype }, context, '--reference');
    try {
      if (reference) checkReference(model.limits, reference.limits, trees);
      return await trainIntoFolder('dpo', options, context, { model, reference }, length, (hooks) =>
        trainPreference(model.engine, trees, training, {
          ...hooks,
          ...(cache && { referenceCache: cache }),
          ...(reference && { reference: reference.engine }),
        }),
      );
    } finally {
      await reference?.engine.dispose();
    }
  } finally {
    await model.engine.dispose();
  }
}
