// The report as one HTML file that asks the network for nothing. Its policy lets only its own script and style run.

import { createHash } from 'node:crypto';
import { chartsSection, trainingSection } from './charts.js';
import type { RunData } from './data.js';
import { headerSection, recipeSection, titleOf } from './header.js';
import { Html, html } from './html.js';
import { SCRIPT } from './script.js';
import { searchSection } from './search-table.js';
import { STYLE } from './style.js';
import { summarySection } from './summary.js';
import { treesSection } from './trees.js';

/** The same text for the same data. */
export function reportPage(run: RunData): string {
  const { models, manifest } = run;
  const sections: [id: string, name: string, section: Html | undefined][] = [
    ['models', 'Models', summarySection(models)],
    ['charts', 'Charts', chartsSection(run)],
    ['training', 'Training', trainingSection(run)],
    ['search', 'Search', searchSection(models)],
    ['trees', 'Trees', treesSection(models)],
    ['recipe', 'Recipe', recipeSection(run)],
  ];
  const shown = sections.filter(([, , section]) => section !== undefined);
  const policy = `default-src 'none'; style-src '${hashOf(STYLE)}'; script-src '${hashOf(SCRIPT)}'`;
  return html`${new Html('<!doctype html>')}
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${titleOf(manifest)} · Stepward run</title>
<style>${new Html(STYLE)}</style>
</head>
<body>
${headerSection(run)}
${models.length > 0 && html`<nav aria-label="Sections">${shown.map(([id, name]) => html`<a href="#${id}">${name}</a>`)}</nav>`}
<main>
${shown.map(([, , section]) => section)}</main>
<script>${new Html(SCRIPT)}</script>
</body>
</html>
`.text;
}

function hashOf(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}
