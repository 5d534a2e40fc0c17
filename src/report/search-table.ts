// What each search and each training cost and gave, a column for each iteration.

import type { ModelData } from './data.js';
import { count, decimal, duration, isNumber, NONE, percent, significant } from './format.js';
import { type Html, html } from './html.js';

type Row = [name: string, text: (model: ModelData) => string];

const FINISHES: Record<string, string> = {
  max_steps: 'Solutions at the step limit',
  length: 'Solutions cut off',
};
const OUTCOMES: Record<string, string> = {
  pair: 'Steps with a pair',
  unanimous: 'Steps with one candidate',
  margin: 'Steps under the margin',
  cap: 'Steps without spread',
};

const SOLUTIONS: Row[] = [
  ['Problems', ({ search }) => count(search?.problems)],
  ['Solved', ({ search }) => percent(search?.accuracy)],
  ['Steps per solution', ({ search }) => decimal(search?.mean_steps)],
];
const STEPS: Row[] = [
  ['Different candidates a step', ({ trees }) => decimal(ratio(trees.distinct, sum(trees.outcomes.values())))],
];
const JUDGING: Row[] = [
  ['Rollbacks', ({ search }) => count(search?.rollbacks)],
  ['Pairs', ({ search }) => count(search?.pairs)],
  ['Verdicts', ({ search }) => count(search?.verdicts)],
  ['Flips', ({ search }) => part(search?.flips, search?.both_orders)],
  ['First shown wins', ({ search }) => part(search?.first_wins, search?.decided)],
  ['No verdict found', ({ search }) => part(search?.parse_failures, search?.verdicts)],
];
const WORK: Row[] = [
  ['Tokens sampled for steps', ({ search }) => count(search?.generated_tokens)],
  ['Tokens sampled by the judge', ({ search }) => count(search?.judge_generated_tokens)],
  ['Tokens computed', ({ search }) => count(search?.computed_tokens)],
  ['Without shared prefixes', ({ search }) => times(search?.prefix_free_tokens, search?.computed_tokens)],
  ['Time', ({ search }) => duration(search?.seconds)],
];

const TRAINING: Row[] = [
  ['Optimiser steps', ({ training, curve }) => count(training?.steps ?? curve.length)],
  ['Pairs or examples', ({ training }) => count(training?.pairs ?? training?.examples)],
  ['Tokens computed', ({ training }) => count(training?.computed_tokens)],
  ['Without shared prefixes', ({ training }) => times(training?.tokens, training?.computed_tokens)],
  ['Last loss', ({ training, curve }) => significant(training?.final_loss ?? curve.at(-1)?.loss)],
  ['Time', ({ training }) => duration(training?.seconds)],
];

export function searchSection(models: readonly ModelData[]): Html | undefined {
  const searched = models.filter(({ search, trees }) => search !== undefined || trees.total > 0);
  if (searched.length === 0) return undefined;
  const finishOf = ({ search }: ModelData, key: string) =>
    (search?.finish as Record<string, number> | undefined)?.[key];
  const rows = [
    ...SOLUTIONS,
    ...presentRows(FINISHES, finishOf, searched),
    ...STEPS,
    ...presentRows(OUTCOMES, ({ trees }, key) => trees.outcomes.get(key), searched),
    ...JUDGING,
    ...WORK,
  ];
  return html`<section id="search"><h2>Search</h2>
<p class="note">Each model searches fresh problems and judges its own candidates; the pairs train the next one. “Solved” looks at gold answers only after the search. A flip is a comparison whose two orders name different winners.</p>
${table('Search numbers', rows, searched, ({ name }) => `M${Number(name.slice(1)) - 1} → ${name}`)}</section>
`;
}

export function trainingTable(models: readonly ModelData[]): Html | undefined {
  const trained = models.filter(({ training, curve }) => training !== undefined || curve.length > 0);
  return trained.length === 0 ? undefined : table('Training numbers', TRAINING, trained, ({ name }) => name);
}

function table(
  label: string,
  rows: readonly Row[],
  models: readonly ModelData[],
  name: (model: ModelData) => string,
): Html {
  return html`<div class="scroll fit" tabindex="0" role="region" aria-label="${label}"><table>
<thead><tr><td></td>${models.map((model) => html`<th scope="col">${name(model)}</th>`)}</tr></thead>
<tbody>${rows.map(([row, text]) => html`<tr><th scope="row">${row}</th>${models.map((model) => html`<td>${text(model)}</td>`)}</tr>`)}</tbody></table></div>
`;
}

/** A row for each key that any of the models has. */
function presentRows(
  names: Record<string, string>,
  value: (model: ModelData, key: string) => number | undefined,
  models: readonly ModelData[],
): Row[] {
  return Object.entries(names)
    .filter(([key]) => models.some((model) => (value(model, key) ?? 0) > 0))
    .map(([key, name]) => [name, (model) => count(value(model, key) ?? 0)]);
}

/** "528 of 855 (61.8%)". */
function part(value: number | undefined, whole: number | undefined): string {
  return isNumber(value) && isNumber(whole)
    ? `${count(value)} of ${count(whole)} (${percent(ratio(value, whole))})`
    : NONE;
}

function times(without: number | undefined, computed: number | undefined): string {
  const factor = ratio(without, computed);
  return factor === null ? count(without) : `${count(without)} (${factor.toFixed(1)} ×)`;
}

function sum(values: Iterable<number>): number {
  return [...values].reduce((total, value) => total + value, 0);
}

function ratio(value: number | undefined, whole: number | undefined): number | null {
  return isNumber(value) && isNumber(whole) && whole !== 0 ? value / whole : null;
}
