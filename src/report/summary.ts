// The headline: tiles for the last model against M1, and a row of numbers for each model.

import { accuracyOf, judgeAccuracyOf, type ModelData, numberOf } from './data.js';
import { count, decimal, duration, isNumber, NONE, percent, percentRange, plural, points } from './format.js';
import { type Html, type HtmlValue, html } from './html.js';

export function summarySection(models: readonly ModelData[]): Html {
  if (models.length === 0) return html`<section><p class="empty">No model was finished in this run.</p></section>`;
  return html`<section id="models"><h2>Models</h2>
${tiles(models)}${table(models)}
<p class="note">Accuracy is greedy, on held-out problems, with its 95% interval. Gained and lost count the held-out problems
that M1 did not solve and this model does, and the other way round. The judge is asked about held-out pairs in both orders: flips are pairs whose orders
name different winners, “first” is how often the step shown first wins (50% is fair).</p></section>
`;
}

function tiles(models: readonly ModelData[]): Html {
  const first = models[0] as ModelData;
  const last = models.findLast((model) => accuracyOf(model) !== null) ?? (models.at(-1) as ModelData);
  const against = (value: (model: ModelData) => number | null) =>
    last === first ? 'the first model' : `${points(difference(value(last), value(first)))} against ${first.name}`;
  const { judge, correct, n } = last.evaluation;
  const tile = (name: string, value: string, notes: HtmlValue[]) =>
    html`<div class="tile"><p class="name">${name}</p><p class="value">${value}</p>${notes.map((note) => note && html`<p class="note">${note}</p>`)}</div>`;
  const solved = isNumber(correct) && isNumber(n) && `${count(correct)} of ${count(n)} held-out problems`;
  const pairs = models.reduce((sum, { metrics, search }) => sum + (numberOf(search?.pairs, metrics.pairs) ?? 0), 0);
  return html`<div class="tiles">
${tile(`${last.name} accuracy`, percent(accuracyOf(last)), [against(accuracyOf), solved])}
${tile(`${last.name} judge accuracy`, percent(judgeAccuracyOf(last)), [
  against(judgeAccuracyOf),
  isNumber(judge?.pair_accuracy) && `${percent(judge.pair_accuracy)} of pairs, over both orders`,
])}
${tile('Preference pairs', count(pairs), [`from ${plural(models.filter(({ search }) => search).length, 'iteration')}`])}
</div>
`;
}

function table(models: readonly ModelData[]): Html {
  const first = models[0] as ModelData;
  const head = [
    'Model',
    'Accuracy',
    '95%',
    'Change',
    'Gained',
    'Lost',
    'Judge',
    'Change',
    'Flips',
    'First',
    'Pairs',
    'Steps',
    'Tokens a step',
    'Time',
  ];
  const rows = models.map((model) => {
    const { evaluation, metrics, search } = model;
    const moved = movement(first, model);
    const change = (value: (model: ModelData) => number | null) =>
      model === first ? NONE : points(difference(value(model), value(first))).replace(' points', '');
    return [
      percent(accuracyOf(model)),
      percentRange(evaluation.interval),
      change(accuracyOf),
      model === first ? NONE : count(moved?.gained),
      model === first ? NONE : count(moved?.lost),
      percent(judgeAccuracyOf(model)),
      change(judgeAccuracyOf),
      percent(numberOf(evaluation.judge?.flip_rate, metrics.judge_flip_rate)),
      percent(numberOf(evaluation.judge?.first_rate, metrics.judge_first_rate)),
      count(numberOf(search?.pairs, metrics.pairs)),
      decimal(numberOf(evaluation.mean_steps, metrics.mean_steps)),
      decimal(numberOf(evaluation.mean_step_tokens, metrics.mean_step_tokens)),
      duration(metrics.seconds),
    ];
  });
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Numbers for each model"><table>
<thead><tr>${head.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
<tbody>${rows.map((cells, i) => html`<tr><th scope="row">${models[i]?.name}</th>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>
`;
}

function difference(value: number | null, from: number | null): number | null {
  return value === null || from === null ? null : value - from;
}

/** Held-out problems solved by one of the two models only; undefined where either list is missing. */
export function movement(
  from: Pick<ModelData, 'solved'>,
  to: Pick<ModelData, 'solved'>,
): { gained: number; lost: number } | undefined {
  if (from.solved.size === 0 || to.solved.size === 0) return undefined;
  let [gained, lost] = [0, 0];
  for (const [id, right] of to.solved) {
    const before = from.solved.get(id);
    if (before === false && right) gained++;
    if (before === true && !right) lost++;
  }
  return { gained, lost };
}
