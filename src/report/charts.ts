// Which charts the report shows: what changes from model to model, and what happened during each training.

import { type ChartOptions, lineChart, type Point, type Series } from './chart.js';
import { curvesOf } from './curves.js';
import { accuracyOf, judgeAccuracyOf, type ModelData, numberOf, type RunData } from './data.js';
import { percent, significant } from './format.js';
import { type Html, html } from './html.js';
import { trainingTable } from './search-table.js';

const share = {
  format: (value: number, digits: number) => percent(value, Math.max(0, digits - 2)),
  axis: { bounds: [0, 1] as [number, number], minSpan: 0.1 },
};
const amount = { format: (value: number, digits: number) => value.toFixed(digits).replace('-', '−') };

export function chartsSection({ models, manifest }: RunData): Html | undefined {
  if (models.length === 0) return undefined;
  const categories = models.map(({ name }) => name);
  const perModel = (options: Omit<ChartOptions, 'xLabel' | 'categories'>) =>
    lineChart({ xLabel: 'model', categories, ...options });
  const series = (name: string, value: (model: ModelData) => number | null, rest: Partial<Series> = {}): Series => ({
    name,
    points: models.map((model, x) => ({ x, y: value(model) })),
    ...rest,
  });
  // The search that made M(n+1) is M(n)'s.
  const searched = (
    name: string,
    value: (search: NonNullable<ModelData['search']>) => unknown,
    rest: Partial<Series> = {},
  ) =>
    series(
      name,
      (model) => {
        const { search } = models[models.indexOf(model) + 1] ?? {};
        return search ? numberOf(value(search)) : null;
      },
      rest,
    );
  const guard = manifest.recipe?.guards?.judge_accuracy;
  return html`<section id="charts"><h2>From model to model</h2>
<div class="charts">
${perModel({
  title: 'Accuracy',
  note: 'whiskers: 95%',
  ...share,
  series: [
    { name: 'held-out problems, greedy', points: intervals(models, accuracyOf, (model) => model.evaluation.interval) },
    searched('its step search, on its own problems', ({ accuracy }) => accuracy, { dashed: true }),
  ],
})}${perModel({
  title: 'Judge accuracy',
  note: 'held-out pairs; whiskers: 95%',
  ...share,
  series: [
    {
      name: 'all verdicts',
      points: intervals(models, judgeAccuracyOf, (model) => model.evaluation.judge?.verdict_interval),
    },
    series('pairs over both orders', ({ evaluation }) => evaluation.judge?.pair_accuracy ?? null, {
      dashed: true,
    }),
  ],
  lines: guard === undefined ? [] : [{ y: guard, name: 'guard' }],
})}${perModel({
  title: 'Judge bias',
  note: 'held-out pairs',
  ...share,
  series: [
    series('orders disagree', ({ evaluation, metrics }) =>
      numberOf(evaluation.judge?.flip_rate, metrics.judge_flip_rate),
    ),
    series('first shown wins', ({ evaluation, metrics }) =>
      numberOf(evaluation.judge?.first_rate, metrics.judge_first_rate),
    ),
    series('no verdict found', ({ evaluation }) => evaluation.judge?.parse_failure_rate ?? null),
  ],
  lines: [{ y: 0.5, name: 'fair for first shown' }],
})}${perModel({
  title: 'Judge bias in its search',
  note: 'its own candidates',
  ...share,
  series: [
    searched('orders disagree', ({ flip_rate: rate }) => rate),
    searched('first shown wins', ({ first_rate: rate }) => rate),
    searched(
      'no verdict found',
      ({ parse_failures: failures, verdicts }) => (failures ?? Number.NaN) / (verdicts ?? 0),
    ),
  ],
  lines: [{ y: 0.5, name: 'fair for first shown' }],
})}${perModel({
  title: 'Steps per solution',
  ...amount,
  axis: { minSpan: 0.5 },
  series: [
    series('held-out problems, greedy', ({ evaluation, metrics }) =>
      numberOf(evaluation.mean_steps, metrics.mean_steps),
    ),
    searched('its step search', ({ mean_steps: steps }) => steps, { dashed: true }),
  ],
})}${perModel({
  title: 'Tokens per step',
  note: 'held-out problems, greedy',
  ...amount,
  axis: { minSpan: 1 },
  series: [
    series('tokens', ({ evaluation, metrics }) => numberOf(evaluation.mean_step_tokens, metrics.mean_step_tokens)),
  ],
})}
</div></section>
`;
}

export function trainingSection({ models, manifest }: RunData): Html | undefined {
  const table = trainingTable(models);
  if (!table) return undefined;
  const [sft, updates] = [curvesOf(models, 'sft'), curvesOf(models, 'preference')];
  const chart = (
    { stretches, thinned }: typeof sft,
    options: Omit<ChartOptions, 'xLabel' | 'format'> & Partial<ChartOptions>,
  ) =>
    stretches.length > 0 &&
    lineChart({
      ...amount,
      xLabel: thinned > 1 ? `optimiser step (each point the mean of ${thinned})` : 'optimiser step',
      stretches,
      ...options,
    });
  const line = (name: string, points: Point[]): Series => ({ name, points });
  const { loss, sft_weight: nll } = manifest.recipe?.update ?? {};
  const startsAtLn2 = loss === 'sigmoid' && nll === 0;
  return html`<section id="training"><h2>Training</h2>
<div class="charts">
${chart(sft, { title: 'SFT loss', note: 'M1', series: [line('loss', sft.points('loss'))] })}
${chart(updates, {
  title: 'Update loss',
  series: [line('loss', updates.points('loss'))],
  lines: startsAtLn2 ? [{ y: Math.LN2, name: 'ln 2' }] : [],
})}
${chart(updates, { title: 'Reward margin', note: 'rewards/margins', series: [line('margin', updates.points('rewards/margins'))] })}
${chart(updates, {
  title: 'Rewards',
  note: 'rewards/chosen and rewards/rejected',
  series: [line('chosen', updates.points('rewards/chosen')), line('rejected', updates.points('rewards/rejected'))],
})}
${chart(updates, {
  title: 'Pairs with chosen ahead',
  note: 'rewards/accuracies',
  ...share,
  series: [line('share', updates.points('rewards/accuracies'))],
})}
${chart(updates, {
  title: 'Log-prob of the steps',
  note: 'logps, in nats',
  format: (value, digits) => (digits > 2 ? significant(value) : amount.format(value, digits)),
  series: [line('chosen', updates.points('logps/chosen')), line('rejected', updates.points('logps/rejected'))],
})}
${chart(updates, { title: 'Gradient norm', note: 'before clipping', series: [line('norm', updates.points('grad_norm'))] })}
</div>${table}</section>
`;
}

function intervals(
  models: readonly ModelData[],
  value: (model: ModelData) => number | null,
  interval: (model: ModelData) => readonly [number, number] | undefined,
): Point[] {
  return models.map((model, x) => {
    const [low = null, high = null] = interval(model) ?? [];
    return { x, y: value(model), low, high };
  });
}
