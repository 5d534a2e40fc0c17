// The top of the report: which run this is, how it ended, and what it ran on.

import type { Manifest } from '../run/manifest.js';
import type { RunData } from './data.js';
import { duration, moment, NONE } from './format.js';
import { type Html, html } from './html.js';

const STATES: Record<Manifest['state'], { mark: string; text: string }> = {
  finished: { mark: '✓', text: 'finished' },
  running: { mark: '…', text: 'not ended yet' },
  stopped: { mark: '■', text: 'stopped by a guard' },
  interrupted: { mark: '‖', text: 'interrupted' },
  failed: { mark: '✗', text: 'failed' },
};

export function headerSection({ manifest, notes }: RunData): Html {
  const { recipe, seed, versions, device, dtype, cpu_capability: cpu, threads, reason, times } = facts(manifest);
  const state = manifest.state && STATES[manifest.state];
  const rows: [string, string | undefined][] = [
    ['Model', modelText(recipe?.model)],
    ['Seed', text(seed)],
    [
      'Device',
      [device, cpu, dtype && dtype !== 'auto' && dtype, threads && `${threads} threads`].filter(Boolean).join(', '),
    ],
    [
      'Versions',
      Object.entries(versions ?? {})
        .map(([name, version]) => `${name} ${version}`)
        .join(', '),
    ],
    ['Started', times?.started && moment(times.started)],
    ['Took', tookText(times)],
  ];
  return html`<header>
<p class="brand">Stepward run</p>
<h1>${titleOf(manifest)} ${state && html`<span class="state ${manifest.state}"><span aria-hidden="true">${state.mark}</span> ${state.text}</span>`}</h1>
${reason && html`<p class="reason">${reason}</p>`}
<dl class="facts">${rows.map(([name, value]) => value && html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
${notes.length > 0 && html`<div class="notes"><p>Not everything in the run folder could be read:</p><ul>${notes.map((note) => html`<li>${note}</li>`)}</ul></div>`}
</header>
`;
}

export function titleOf({ recipe }: Partial<Manifest>): string {
  return recipe?.name ?? 'Run';
}

/** The recipe in full, folded. */
export function recipeSection({ manifest }: RunData): Html | undefined {
  if (!manifest.recipe) return undefined;
  return html`<section id="recipe"><h2>Recipe</h2>
<details class="recipe"><summary>Every option, as resolved</summary><pre>${JSON.stringify(manifest.recipe, null, 2)}</pre></details></section>
`;
}

function facts(manifest: Partial<Manifest>) {
  const { recipe } = manifest;
  return { ...manifest, seed: manifest.seed ?? recipe?.seed, dtype: recipe?.dtype };
}

function modelText(model: NonNullable<RunData['manifest']['recipe']>['model'] | undefined): string | undefined {
  if (model === undefined || typeof model === 'string') return model;
  return `${model.config}, random weights (seed ${model.seed})`;
}

function tookText(times: Partial<Manifest['times']> | undefined): string {
  if (!times?.started || !times.ended) return NONE;
  return duration((Date.parse(times.ended) - Date.parse(times.started)) / 1000);
}

function text(value: number | undefined): string | undefined {
  return value === undefined ? undefined : String(value);
}
