// M(n) to M(n+1): step-wise DPO on the pairs of the last search, paper section 3.4.

import { readJsonl } from '../data/jsonl.js';
import { StepwardError } from '../errors.js';
import { unreadVerdicts } from '../judge/unread.js';
import { deriveSeed } from '../random.js';
import type { ModelFolder } from '../run/folder.js';
import { ChosenGuard } from '../run/guards.js';
import { usesReference } from '../training/losses/pair-loss.js';
import { trainPreference } from '../training/preference.js';
import type { PreferenceTree } from '../training/types.js';
import type { RunContext } from './context.js';
import type { SearchSummary } from './iteration.js';
import { preferenceTree } from './pairs.js';
import type { Policy } from './policy.js';
import type { SearchRecord } from './search-record.js';
import { optimizerOptions, trainInto } from './training.js';

/**
 * Trains `policy`, which is M(n), on target/search.jsonl and writes it to `target`. `reference`: M1 where the recipe asks
 * for it, else M(n) before training. Throws GUARD_STOPPED where there is no pair, or the chosen log-probs collapse.
 */
export async function update(
  target: ModelFolder,
  policy: Policy,
  reference: Policy | undefined,
  context: RunContext,
): Promise<void> {
  const { recipe, hooks } = context;
  const trees = await readTrees(target.path('search.jsonl'), recipe.select.pair_weight);
  if (trees.length === 0) {
    const unread = unreadVerdicts(target.readJson<SearchSummary>('search.json'), recipe.judge);
    throw new StepwardError(
      'GUARD_STOPPED',
      `${target.name}: the search made no pairs, so there is nothing to train on${unread ? `; ${unread}` : ''}`,
    );
  }
  const { beta, loss, label_smoothing: labelSmoothing, gamma, mix, sft_weight: sftWeight } = recipe.update;
  const options = {
    ...optimizerOptions(recipe.update, deriveSeed(recipe.seed, 'update', target.name)),
    beta,
    loss,
    labelSmoothing,
    ...(loss === 'simpo' ? { gamma } : {}),
    mix,
    sftWeight,
  };
  const guard = usesReference(loss)
    ? new ChosenGuard(recipe.guards, beta, meanChosenTokens(trees))
    : new ChosenGuard(recipe.guards, beta, 1, 'first step');
  let warned = false;
  await trainInto(
    target,
    policy,
    context,
    `${target.name} update`,
    (own) =>
      trainPreference(policy.engine, trees, options, { ...own, ...(reference ? { reference: reference.engine } : {}) }),
    (metrics, total) => {
      const message = guard.check(metrics, total);
      if (message === undefined || warned) return;
      if (recipe.guards.on === 'stop') throw new StepwardError('GUARD_STOPPED', `${target.name}: ${message}`);
      warned = true;
      hooks.warn?.(`${target.name}: ${message}`);
    },
  );
}

async function readTrees(path: string, weigh: Parameters<typeof preferenceTree>[1]): Promise<PreferenceTree[]> {
  const trees: PreferenceTree[] = [];
  for await (const { value } of readJsonl(path)) {
    const tree = preferenceTree(value as SearchRecord, weigh);
    if (tree) trees.push(tree);
  }
  return trees;
}

function meanChosenTokens(trees: readonly PreferenceTree[]): number {
  const lengths = trees.flatMap(({ steps }) =>
    steps.filter((step) => step.rejected.length > 0).map((step) => step.chosenIds.length),
  );
  return lengths.reduce((sum, length) => sum + length, 0) / Math.max(1, lengths.length);
}
