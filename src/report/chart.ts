// A line chart as inline SVG in a <figure>, with a text that says the same to those who cannot see it. The axes are drawn
// in chart-frame.ts, the lines and marks in chart-series.ts.

import { drawFrame, frameOf, SIZE } from './chart-frame.js';
import { drawKey, drawSeries } from './chart-series.js';
import { isNumber } from './format.js';
import { type Html, html } from './html.js';
import type { AxisOptions } from './scale.js';

export interface Point {
  x: number;
  /** null: the line is broken here. */
  y: number | null;
  /** Ends of the whisker. */
  low?: number | null;
  high?: number | null;
}

export interface Series {
  name: string;
  points: readonly Point[];
  dashed?: boolean;
}

export interface ChartOptions {
  title: string;
  /** Beside the title: what is shown. */
  note?: string;
  series: readonly Series[];
  xLabel: string;
  /** Names of x = 0, 1, ...; else x is a number of optimiser steps. */
  categories?: readonly string[];
  /** Where a new stretch of the x axis begins, and its name. */
  stretches?: readonly { x: number; name: string }[];
  axis?: AxisOptions;
  /** `digits`: decimals that tell the ticks apart. */
  format(value: number, digits: number): string;
  /** Horizontal lines to compare with; the axis reaches them. */
  lines?: readonly { y: number; name: string }[];
}

/** A series that has values, with its colour and mark, 0 to 4: its place among all series asked for. */
export interface DrawnSeries extends Series {
  look: number;
}

/** Without any value the figure says so. */
export function lineChart(options: ChartOptions): Html {
  const { title, note } = options;
  const caption = html`<figcaption>${title}${note && html` <span class="note">${note}</span>`}</figcaption>`;
  const drawn = options.series
    .map((one, look): DrawnSeries => ({ ...one, look }))
    .filter(({ points }) => points.some(({ y }) => isNumber(y)));
  if (drawn.length === 0) {
    return html`<figure class="chart">${caption}<p class="empty">This run has no values for it.</p></figure>
`;
  }
  const frame = frameOf(options, drawn);
  const legend =
    drawn.length > 1 && html`<ul class="legend">${drawn.map((one) => html`<li>${drawKey(one)}${one.name}</li>`)}</ul>`;
  return html`<figure class="chart">${caption}
<svg viewBox="0 0 ${SIZE.width} ${SIZE.height}" role="img" aria-label="${title}. ${describe(options, drawn)}">
${drawFrame(frame, options)}${drawn.map((one) => drawSeries(one, frame, options))}
</svg>${legend}</figure>
`;
}

function describe({ format, categories }: ChartOptions, series: readonly Series[]): string {
  const say = ({ y }: Point) => format(y as number, 3);
  return series
    .map(({ name, points }) => {
      const known = points.filter(({ y }) => isNumber(y));
      if (categories) return `${name}: ${known.map((point) => `${categories[point.x]} ${say(point)}`).join(', ')}.`;
      return `${name}: from ${say(known[0] as Point)} to ${say(known.at(-1) as Point)}.`;
    })
    .join(' ');
}
