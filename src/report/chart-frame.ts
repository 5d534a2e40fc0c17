// What a chart's lines are drawn on: the scales, both axes with ticks and labels, and lines to compare with.

import type { ChartOptions, Series } from './chart.js';
import { isNumber } from './format.js';
import { type Html, html } from './html.js';
import { type Axis, axisOver, place, wholeTicks } from './scale.js';

export const SIZE = { width: 370, height: 220 };
const [TOP, RIGHT, BOTTOM] = [20, SIZE.width - 14, SIZE.height - 40];
/** Of a digit at the size of the ticks. */
const CHARACTER = 6.8;

/** Maps values to coordinates, rounded to tenths. */
export interface Frame {
  axis: Axis;
  left: number;
  /** Ends of the x axis. */
  range: [number, number];
  x(value: number): number;
  y(value: number): number;
}

export function frameOf(options: ChartOptions, series: readonly Series[]): Frame {
  const { categories, stretches = [], lines = [], format } = options;
  const points = series.flatMap((one) => one.points);
  const values = points.flatMap(({ y, low, high }) => [y, low, high]).filter(isNumber);
  const axis = axisOver([...values, ...lines.map(({ y }) => y)], options.axis);
  const left = tenth(12 + CHARACTER * Math.max(...axis.ticks.map((tick) => format(tick, axis.digits).length)));
  const xs = [...points, ...stretches].map(({ x }) => x);
  const range: [number, number] = categories
    ? [-0.5, categories.length - 0.5]
    : [xs.reduce((a, b) => Math.min(a, b)), xs.reduce((a, b) => Math.max(a, b))];
  return {
    axis,
    left,
    range,
    x: (value) => tenth(place(value, ...range, left, RIGHT)),
    y: (value) => tenth(place(value, axis.low, axis.high, BOTTOM, TOP)),
  };
}

export function drawFrame(
  frame: Frame,
  { xLabel, categories, stretches = [], lines = [], format }: ChartOptions,
): Html {
  const { axis, left, range, x, y } = frame;
  const names = categories
    ? categories.map((name, at) => ({ at, name }))
    : wholeTicks(...range).map((at) => ({ at, name: String(at) }));
  // Where there are too many to be named, every second or third is.
  const every = Math.ceil((names.length * 34) / (RIGHT - left));
  const wideEnough = (i: number) => x(stretches[i + 1]?.x ?? range[1]) - x(stretches[i]?.x ?? 0) > 26;
  return html`${axis.ticks.map(
    (tick) =>
      html`<path class="grid" d="M${left} ${y(tick)}H${RIGHT}"/>${label(left - 6, y(tick) + 4, 'end', format(tick, axis.digits))}`,
  )}
<path class="axis" d="M${left} ${BOTTOM}H${RIGHT}"/>
${names.map(({ at, name }, i) => i % every === 0 && html`<path class="axis" d="M${x(at)} ${BOTTOM}v4"/>${label(x(at), BOTTOM + 16, 'middle', name)}`)}
${label((left + RIGHT) / 2, SIZE.height - 6, 'middle', xLabel)}
${stretches.map(
  (stretch, i) =>
    html`${i > 0 && html`<path class="stretch" d="M${x(stretch.x)} ${TOP - 14}V${BOTTOM}"/>`}${wideEnough(i) && label(x(stretch.x) + 4, TOP - 7, 'start', stretch.name)}`,
)}
${lines.map((line) => html`<path class="compare" d="M${left} ${y(line.y)}H${RIGHT}"/>${label(RIGHT, y(line.y) - 4, 'end', line.name)}`)}
`;
}

function label(x: number, y: number, anchor: string, text: string): Html {
  return html`<text x="${tenth(x)}" y="${tenth(y)}" text-anchor="${anchor}">${text}</text>`;
}

/** A tenth of a pixel is enough. */
function tenth(value: number): number {
  return Math.round(10 * value) / 10;
}
