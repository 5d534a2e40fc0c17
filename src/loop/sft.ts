// M0 to M1: supervised fine-tuning on demonstrations (IFT) mixed with judgements (EFT), paper section 3.1.

import type { SftConfig } from '../config/recipe.js';
import { eftExample, iftExample } from '../prompts/examples.js';
import type { ModelFolder } from '../run/folder.js';
import { trainSft } from '../training/sft.js';
import type { SftExample } from '../training/types.js';
import type { RunContext } from './context.js';
import type { Policy } from './policy.js';
import { deriveSeed, shuffled } from './random.js';
import { eftOf, iftOf } from './records.js';
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

export async function sftExamples(policy: Policy, config: SftConfig, seed: number): Promise<SftExample[]> {
  const { prompts } = policy;
  const ift = (await iftOf(config.ift, prompts.format.step_delimiter)).map((record) => iftExample(prompts, record));
  const eft = config.eft ? (await eftOf(config.eft)).map((record) => eftExample(prompts, record)) : [];
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
