// The lines of a chart. Series differ by colour, by the shape of their marks and by dashes; each mark tells its value.

import type { ChartOptions, DrawnSeries, Point } from './chart.js';
import type { Frame } from './chart-frame.js';
import { isNumber } from './format.js';
import { type Html, html } from './html.js';

/** Longer lines go without marks. */
const MARKS_UP_TO = 40;
/** Circle, square, triangle, diamond, cross. */
const SHAPES = [
  'M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0',
  'M-3.5 -3.5h7v7h-7z',
  'M0 -4.5L4.5 3.5H-4.5z',
  'M0 -5L5 0L0 5L-5 0z',
  'M-4 -4L4 4M4 -4L-4 4',
];

type Known = Point & { y: number };

export function drawSeries({ name, points, dashed, look }: DrawnSeries, frame: Frame, options: ChartOptions): Html {
  const runs = unbroken(points);
  const path = runs
    .map((run) => run.map(({ x, y }, i) => `${i === 0 ? 'M' : 'L'}${frame.x(x)} ${frame.y(y)}`).join(''))
    .join('');
  // A point without neighbours has no line to be seen by.
  const marked = runs.filter((run) => points.length <= MARKS_UP_TO || run.length === 1).flat();
  const say = (value: number) => options.format(value, frame.axis.digits + 1);
  return html`<g class="series s${look}"><path class="line${dashed && ' dashed'}" d="${path}"/>${marked.map((point) => {
    const { x, y, low, high } = point;
    const ends = isNumber(low) && isNumber(high) ? { low, high } : undefined;
    const range = ends ? ` (${say(ends.low)} to ${say(ends.high)})` : '';
    return html`<g><title>${name}, ${options.categories?.[x] ?? String(Math.round(x))}: ${say(y)}${range}</title>${
      ends && whisker(frame.x(x), frame.y(ends.low), frame.y(ends.high))
    }${mark(look, frame.x(x), frame.y(y))}</g>`;
  })}</g>
`;
}

/** A sample of a series for the legend. */
export function drawKey({ look, dashed }: DrawnSeries): Html {
  return html`<svg viewBox="0 0 28 12" width="28" height="12" aria-hidden="true"><g class="series s${look}"><path class="line${dashed && ' dashed'}" d="M1 6H27"/>${mark(look, 14, 6)}</g></svg>`;
}

/** The stretches of points that have a value. */
function unbroken(points: readonly Point[]): Known[][] {
  const runs: Known[][] = [];
  let open = false;
  for (const point of points) {
    if (isNumber(point.y)) {
      if (!open) runs.push([]);
      runs.at(-1)?.push(point as Known);
    }
    open = isNumber(point.y);
  }
  return runs;
}

function whisker(x: number, low: number, high: number): Html {
  return html`<path class="whisker" d="M${x} ${low}V${high}M${x - 5} ${low}h10M${x - 5} ${high}h10"/>`;
}

function mark(look: number, x: number, y: number): Html {
  return html`<path class="mark" transform="translate(${x} ${y})" d="${SHAPES[look % SHAPES.length]}"/>`;
}
