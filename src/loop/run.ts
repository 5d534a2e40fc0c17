// A whole run: M1, then as many iterations as the recipe asks for. Looks at the guards between models, keeps run.json
// and metrics.jsonl up to date, and can be ended and resumed at any stage.

import type { Recipe } from '../config/recipe.js';
import { checkFolder } from '../data/folder.js';
import { StepwardError, toStepwardError } from '../errors.js';
import { Grader } from '../eval/grader.js';
import { unreadVerdicts } from '../judge/unread.js';
import { readFormat, writeModelFormat } from '../prompts/load.js';
import { finished, RunFolder } from '../run/folder.js';
import { judgeGuard } from '../run/guards.js';
import { checkSameRecipe, type Manifest, readManifest, writeManifest } from '../run/manifest.js';
import { describeModel, type ModelMetrics, metricsOf, writeMetrics } from '../run/metrics.js';
import { type OpenRequest, type RunContext, type RunHooks, withPolicy } from './context.js';
import { labelledPairsOf } from './example-records.js';
import { type Fit, fittingPairs, fittingProblems } from './fits.js';
import { type Evaluation, evaluate, iterate } from './iteration.js';
import type { Policy } from './policy.js';
import { type PlacedProblems, problemsOf } from './records.js';
import { firstModel } from './sft.js';
import { sliceOf, sliceRemark } from './slices.js';

export interface RunOptions {
  recipe: Recipe;
  directory: string;
  /** Go on where the folder's run ended. Without it a folder that holds a run is refused. */
  resume?: boolean;
  hooks?: RunHooks;
  /** Opens a model folder. */
  open(request: OpenRequest): Promise<Policy>;
  /** What run.json says of the machine. */
  machine: Pick<Manifest, 'versions' | 'device' | 'cpu_capability' | 'threads'>;
}

/**
 * Runs a recipe. The folder is left resumable however it ends, and is not left where nothing was made. Throws GUARD_STOPPED,
 * CANCELLED and what the stages throw.
 */
export async function runRecipe({
  recipe,
  directory,
  resume,
  hooks = {},
  open,
  machine,
}: RunOptions): Promise<ModelMetrics[]> {
  const folder = new RunFolder(directory);
  const path = folder.path('run.json');
  const before = readManifest(path);
  if (before && !resume) {
    throw new StepwardError(
      'INVALID_ARGUMENT',
      `${directory}: holds a run already; pass --resume to go on with it, or another --run`,
    );
  }
  if (before) checkSameRecipe(path, before, recipe);
  const started = before?.times.started ?? new Date().toISOString();
  const manifest: Manifest = { recipe, seed: recipe.seed, ...machine, state: 'running', times: { started } };
  writeManifest(path, manifest);
  const grader = new Grader();
  const end = (state: Manifest['state'], reason?: string) =>
    writeManifest(path, {
      ...manifest,
      state,
      ...(reason === undefined ? {} : { reason }),
      times: { started, ended: new Date().toISOString() },
    });
  try {
    const metrics = await makeModels({ recipe, folder, hooks, grader, open });
    end('finished');
    return metrics;
  } catch (thrown) {
    const error = toStepwardError(thrown);
    // What is wrong with its input is put right in the input: a run that has made nothing is begun again, not resumed.
    if (!before && error.code !== 'CANCELLED' && folder.withdraw()) throw error;
    const state = { GUARD_STOPPED: 'stopped', CANCELLED: 'interrupted' } as const;
    end(state[error.code as keyof typeof state] ?? 'failed', error.code === 'CANCELLED' ? undefined : error.message);
    throw error;
  } finally {
    await grader.close();
  }
}

async function makeModels(context: RunContext): Promise<ModelMetrics[]> {
  const { recipe, folder, hooks } = context;
  const metrics: ModelMetrics[] = [];
  if (typeof recipe.model === 'string' && !folder.model(1).has('model')) checkFolder('model', recipe.model);
  const all = recipe.problems && recipe.iterations > 0 ? await problemsOf(recipe.problems.source) : undefined;
  const left = !folder.model(recipe.iterations + 1).has('model');
  const remark = all && left ? sliceRemark(all, recipe) : undefined;
  if (remark !== undefined) hooks.warn?.(remark);
  await makeFirst(context, all);
  for (let n = 1; ; n++) {
    const target = folder.model(n);
    const evaluation = await evaluate(target, context);
    const previous = metrics.at(-1)?.judge_accuracy ?? undefined;
    metrics.push(metricsOf(n, target, evaluation));
    writeMetrics(folder.path('metrics.jsonl'), metrics);
    hooks.log?.(describeModel(metrics.at(-1) as ModelMetrics));
    const last = n > recipe.iterations || !all;
    checkJudge(target.name, evaluation, previous, last, context);
    if (last) return metrics;
    await iterate(target, folder.model(n + 1), sliceOf(all, recipe, n), context);
  }
}

/** M1: the recipe's model as it is, or after SFT. */
async function makeFirst(context: RunContext, problems: PlacedProblems | undefined): Promise<void> {
  const { recipe, folder } = context;
  const target = folder.model(1);
  if (target.has('model')) return;
  const format = typeof recipe.format === 'string' ? readFormat(recipe.format) : recipe.format;
  const { model, sft } = recipe;
  const from = typeof model === 'string' ? { directory: model } : { directory: model.config, initSeed: model.seed };
  await withPolicy(context, { ...from, ...(format ? { format } : {}) }, async (policy) => {
    await checkSources(policy, problems, recipe);
    if (sft) return firstModel(target, policy, sft, context);
    await finished(target.model, async (part) => {
      await policy.engine.save(part);
      writeModelFormat(part, policy.prompts.format);
    });
  });
}

/** Reads what the run will need later, so that what is wrong with it shows before any work. */
async function checkSources(fit: Fit, problems: PlacedProblems | undefined, recipe: Recipe): Promise<void> {
  const { source, judge_source: judgeSource } = recipe.evaluate;
  if (problems) fittingProblems(fit, problems);
  if (source) fittingProblems(fit, await problemsOf(source, true));
  if (judgeSource) fittingPairs(fit, await labelledPairsOf(judgeSource), recipe.judge.mode);
}

// The last model trains nothing any more, so there is nothing to stop: it only warns.
function checkJudge(
  name: string,
  { judge }: Evaluation,
  previous: number | undefined,
  last: boolean,
  { recipe, hooks }: RunContext,
): void {
  if (!judge) {
    if (!last) hooks.warn?.(`${name}: no evaluate.judge_source, so nothing shows whether its verdicts can be trusted`);
    return;
  }
  const finding = judgeGuard(recipe.guards, judge.verdict_accuracy, previous);
  if (finding === undefined) return;
  const unread = unreadVerdicts({ ...judge, verdicts: 2 * judge.n }, recipe.judge);
  const message = unread === undefined ? finding : `${finding}; ${unread}`;
  if (recipe.guards.on === 'stop' && !last) {
    throw new StepwardError('GUARD_STOPPED', `${name}: ${message}. guards.on: warn goes on all the same`);
  }
  hooks.warn?.(`${name}: ${message}`);
}
