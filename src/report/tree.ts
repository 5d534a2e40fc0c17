// One tree of a search as folded HTML: each step with its candidates and verdicts, what was taken back, the answer.

import type { SearchRecord, StepRecord, VerdictRecord } from '../loop/search-record.js';
import { type Comparison, comparisons, countFlips } from './compare.js';
import { cut, decimal, isNumber, percent, plural, shortest } from './format.js';
import { type Html, html } from './html.js';
import { flipsOf, pairsOf } from './pick.js';

type DiscardedRecord = SearchRecord['discarded'][number];

const OUTCOMES: Record<string, string> = {
  unanimous: 'all samples are the same: no pair',
  margin: 'the margin is too small: no pair',
  cap: 'no spread and no way back left: no pair',
};
const REASONS: Record<string, string> = {
  no_spread: 'the wins were all equal',
  rolled_back: 'the step after it had no spread',
  cut_off: 'no candidate was whole',
  not_taken: 'another solution was taken',
};
const FINISHES: Record<string, string> = { eos: 'ended', max_steps: 'hit the step limit', length: 'was cut off' };

/** `limit`: most characters of a critique; 0 leaves critiques out. */
export function treeHtml(tree: SearchRecord, model: string, limit: number): Html {
  const { id, problem, steps, solution, answer, finish, rollbacks, gold, correct } = tree;
  const [pairs, flips] = [pairsOf(tree), flipsOf(tree)];
  const verdict = correct === undefined ? '' : correct ? 'right' : 'wrong';
  const tags = [verdict, pairs > 0 && 'pairs', rollbacks > 0 && 'rollback', flips > 0 && 'flips']
    .filter(Boolean)
    .join(' ');
  const discarded = tree.discarded ?? [];
  return html`<details class="tree" data-model="${model}" data-tags="${tags}">
<summary><span class="id">${model} · ${id}</span>${
    correct !== undefined && html`<span class="badge ${verdict}">${correct ? '✓ right' : '✗ wrong'}</span>`
  }${pairs > 0 && html`<span class="badge">${plural(pairs, 'pair')}</span>`}${
    rollbacks > 0 && html`<span class="badge">↶ ${plural(rollbacks, 'rollback')}</span>`
  }${flips > 0 && html`<span class="badge">⇄ ${plural(flips, 'flip')}</span>`}<span class="problem">${cut(problem, textLimit(limit))}</span></summary>
<ol class="steps">
${steps.map((step, depth) => html`${discarded.filter((one) => one.depth === depth).map((one) => discardedHtml(one, limit))}${stepHtml(step, depth, limit)}`)}${discarded
  .filter((one) => !(one.depth < steps.length))
  .map((one) => discardedHtml(one, limit))}</ol>
<div class="answer"><p>The solution ${FINISHES[finish] ?? finish}.</p><pre>${cut(solution ?? '', 2 * textLimit(limit))}</pre>
<p>Answer: <b>${answer ?? 'none found'}</b>${gold !== undefined && html`, gold answer: <b>${gold}</b>`}</p></div>
</details>
`;
}

function stepHtml(step: StepRecord, depth: number, limit: number): Html {
  const { candidates, chosen, rejected, outcome } = step;
  const hasPair = isNumber(rejected);
  const what = hasPair
    ? `#${chosen + 1} chosen with ${winsText(candidates[chosen]?.wins)}, #${rejected + 1} rejected with ${winsText(candidates[rejected]?.wins)}`
    : (OUTCOMES[outcome] ?? outcome);
  return html`<li class="step"><p class="head"><b>Step ${depth + 1}</b> ${what}</p>
${candidatesHtml(step, limit, chosen, hasPair ? rejected : null)}${verdictsHtml(step.verdicts, limit)}</li>
`;
}

function discardedHtml(step: DiscardedRecord, limit: number): Html {
  const { depth, reason } = step;
  const back = reason === 'not_taken' ? 'left' : 'taken back';
  return html`<li class="step back"><p class="head"><b>Step ${depth + 1}</b> <span aria-hidden="true">↶</span> ${back}: ${REASONS[reason] ?? reason}</p>
${candidatesHtml(step, limit, null, null)}${verdictsHtml(step.verdicts, limit)}</li>
`;
}

function candidatesHtml(
  { candidates, rounds }: Pick<StepRecord, 'candidates' | 'rounds'>,
  limit: number,
  chosen: number | null,
  rejected: number | null,
): Html {
  // Each pair of candidates gives one win, or half to each; not all of them met where there are rounds.
  const most = rounds ?? candidates.length - 1;
  return html`<ul class="candidates">${candidates.map(({ text, count, wins, logprob, finish }, i) => {
    const role = i === chosen ? 'chosen' : i === rejected ? 'rejected' : '';
    const mark = { chosen: '✓ chosen', rejected: '✗ rejected', '': finish === 'length' ? 'cut off' : '' }[role];
    return html`<li class="candidate ${role}"><span class="number">#${i + 1}</span><pre>${cut(text.trimEnd(), textLimit(limit))}</pre>
<span class="meta"><b class="role">${mark}</b><span>${most > 0 && winsHtml(wins, most)}</span><span>${plural(count, 'sample')}</span><span>log-prob ${decimal(logprob)}</span></span></li>`;
  })}</ul>
`;
}

function winsHtml(wins: number, most: number): Html {
  const width = isNumber(wins) ? Math.round(48 * Math.min(1, wins / most)) : 0;
  return html`<svg class="wins" viewBox="0 0 48 8" width="48" height="8" aria-hidden="true"><rect class="all" width="48" height="8" rx="2"/><rect class="won" width="${width}" height="8" rx="2"/></svg> ${winsText(wins)}`;
}

function winsText(wins: number | undefined): string {
  return `${shortest(wins)} ${wins === 1 ? 'win' : 'wins'}`;
}

/** Steps may be longer than critiques, and are always shown. */
function textLimit(limit: number): number {
  return 2 * Math.max(limit, 400);
}

function verdictsHtml(verdicts: readonly VerdictRecord[], limit: number): Html | undefined {
  if (verdicts.length === 0) return undefined;
  const flips = countFlips(verdicts);
  return html`<details class="verdicts"><summary>${plural(verdicts.length, 'verdict')}${flips > 0 && `, ${plural(flips, 'flip')}`}</summary>
<ul>${comparisons(verdicts).map((comparison) => comparisonHtml(comparison, limit))}</ul></details>`;
}

function comparisonHtml(comparison: Comparison, limit: number): Html {
  const { a, b, verdicts, result } = comparison;
  return html`<li class="comparison ${result}"><p><b>#${a + 1} against #${b + 1}</b> ${resultText(comparison)}</p>
<div class="orders">${verdicts.map((verdict) => orderHtml(verdict, limit))}</div></li>
`;
}

function resultText({ result, winner, verdicts }: Comparison): string {
  if (result === 'flip') return `⇄ flip: the one shown ${verdicts[0]?.winner} wins both times`;
  if (winner === null) return 'no winner';
  return `#${winner + 1} wins${verdicts.length > 1 ? ' in both orders' : ''}`;
}

const WINNERS: Record<string, (first: string, second: string) => string> = {
  first: (first) => `${first} wins`,
  second: (_, second) => `${second} wins`,
  tie: () => 'tie',
  invalid: () => 'no verdict found',
};

function orderHtml({ first, second, winner, p_first: p, critique }: VerdictRecord, limit: number): Html {
  const [one, two] = [`#${first + 1}`, `#${second + 1}`];
  const head = html`${one} first, ${two} second: <b>${WINNERS[winner]?.(one, two) ?? winner}</b>${
    isNumber(p) && html` <span class="p">p(first) ${percent(p)}</span>`
  }`;
  if (!critique || limit === 0) return html`<p class="order">${head}</p>`;
  return html`<details class="order"><summary>${head}</summary><pre>${cut(critique.trim(), limit)}</pre></details>`;
}
