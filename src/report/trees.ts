// The browser of trees: a filter, and for each model its most interesting trees within a budget of bytes.

import type { SearchRecord } from '../loop/search-record.js';
import type { ModelData } from './data.js';
import { count } from './format.js';
import { type Html, html } from './html.js';
import { treeHtml } from './tree.js';

/** Characters of HTML for the trees of all models. */
const BUDGET = 400_000;
/** Tried in turn where a tree is too large. */
const CRITIQUE_LIMITS = [1600, 400, 120, 0];

export function treesSection(models: readonly ModelData[]): Html | undefined {
  const searched = models.filter(({ trees }) => trees.trees.length > 0);
  if (searched.length === 0) return undefined;
  const budget = BUDGET / searched.length;
  const shown = searched.map(({ name, trees }) => ({
    name,
    total: trees.total,
    trees: fitting(trees.trees, name, budget),
  }));
  const options = (names: readonly (readonly [string, string])[]) =>
    names.map(([value, text]) => html`<option value="${value}">${text}</option>`);
  const whole = shown
    .map(({ name, trees, total }) => `${trees.length} of ${count(total)} in ${name}/search.jsonl`)
    .join(', ');
  return html`<section id="trees"><h2>Trees</h2>
<p class="note">A choice of trees in which much happened: ${whole}. The trees of M2 are those that made it: M1 searched and judged them. A flip is a comparison whose two orders disagree.</p>
<form id="filter" hidden aria-label="Filter the trees">
<label>Model <select name="model"><option value="">all</option>${options(shown.map(({ name }) => [name, name]))}</select></label>
<label>Show <select name="tag"><option value="">all</option>${options([
    ['right', 'right answers'],
    ['wrong', 'wrong answers'],
    ['pairs', 'with pairs'],
    ['rollback', 'with rollbacks'],
    ['flips', 'with flips'],
  ])}</select></label>
<label>Search <input type="search" name="text" placeholder="id or words"></label>
<button type="button" name="open">Open all</button> <button type="button" name="close">Close all</button>
<output name="shown"></output>
</form>
${shown.flatMap(({ trees }) => trees)}</section>
`;
}

/** The first trees that fit, at least one. */
function fitting(trees: readonly SearchRecord[], model: string, budget: number): Html[] {
  const shown: Html[] = [];
  let left = budget;
  for (const tree of trees) {
    const made = smallEnough(tree, model, Math.max(left / 2, budget / trees.length));
    if (shown.length > 0 && made.text.length > left) continue;
    shown.push(made);
    left -= made.text.length;
  }
  return shown;
}

/** With critiques as long as the budget allows. */
function smallEnough(tree: SearchRecord, model: string, budget: number): Html {
  let made = html``;
  for (const limit of CRITIQUE_LIMITS) {
    made = treeHtml(tree, model, limit);
    if (made.text.length <= budget) break;
  }
  return made;
}
