// M0 to M1: supervised fine-tuning on demonstrations (IFT) mixed with judgements (EFT), paper section 3.1.

import type { SftConfig } from '../config/recipe.js';
import { eftExample, iftExample } from '../prompts/examples.js';
import { deriveSeed, shuffled } from '../random.js';
import type { ModelFolder } from '../run/folder.js';
import { trainSft } from '../training/sft.js';
import type { SftExample } from '../training/types.js';
import type { RunContext } from './context.js';
import { eftOf, iftOf } from './example-records.js';
import { type Fit, fittingExamples } from './fits.js';
import type { Policy } from './policy.js';
import { optimizerOptions, trainInto } from './training.js';

/** Trains `policy` in place and writes it to `target`. */
export async function firstModel(
  target: ModelFolder,
  policy: Policy,
  config: SftConfig,
  context: RunContext,
): Promise<void> {
  const { seed } = context.recipe;
  const examples = await sftExamples(policy, config, seed);
  const options = optimizerOptions(config, deriveSeed(seed, 'sft'));
  await trainInto(target, policy, context, 'M1 sft', (hooks) => trainSft(policy.engine, examples, options, hooks));
}

/** Examples of the recipe's sources. Throws INVALID_DATA and CONTEXT_TOO_LONG naming the record's place. */
export async function sftExamples(fit: Fit, config: SftConfig, seed: number): Promise<SftExample[]> {
  const { prompts } = fit;
  const { step_delimiter: delimiter, verdicts } = prompts.format;
  const ift = fittingExamples(fit, await iftOf(config.ift, delimiter), (record) => iftExample(prompts, record));
  const eft = config.eft
    ? fittingExamples(fit, await eftOf(config.eft, verdicts), (record) => eftExample(prompts, record))
    : [];
  return config.mix ? mixed(ift, eft, config.mix, seed) : [...ift, ...eft];
}

/** As many examples as there are of both, in the shares asked for: the kind that is short is repeated, the other cut. */
export function mixed<T>(ift: readonly T[], eft: readonly T[], mix: { ift: number; eft: number }, seed: number): T[] {
  const total = ift.length + eft.length;
  const ofIft = Math.round((total * mix.ift) / (mix.ift + mix.eft));
  return [
    ...take(ift, ofIft, deriveSeed(seed, 'mix', 'ift')),
    ...take(eft, total - ofIft, deriveSeed(seed, 'mix', 'eft')),
  ];
}

function take<T>(items: readonly T[], count: number, seed: number): T[] {
  if (items.length === 0) return [];
  const order = shuffled(items, seed);
  return Array.from({ length: count }, (_, i) => order[i % order.length] as T);
}
