// The parts of the report that compute something: numbers, axes, charts, comparisons, the choice of trees, curves.

import { describe, expect, it } from 'vitest';
import { type ChartOptions, lineChart } from '../../src/report/chart.js';
import { comparisons, countFlips } from '../../src/report/compare.js';
import { curvesOf } from '../../src/report/curves.js';
import type { ModelData } from '../../src/report/data.js';
import {
  count,
  cut,
  duration,
  moment,
  percent,
  percentRange,
  points,
  shortest,
  significant,
} from '../../src/report/format.js';
import { Html, html } from '../../src/report/html.js';
import { TREES_PER_MODEL, TreePicker } from '../../src/report/pick.js';
import { axisOver, wholeTicks } from '../../src/report/scale.js';
import { movement } from '../../src/report/summary.js';
import { treeHtml } from '../../src/report/tree.js';
import { tree, verdict } from '../helpers/report-run.js';

describe('html', () => {
  it('escapes values, joins arrays and leaves out nothing', () => {
    expect(html`<p title="${'"<'}">${['a&b', html`<b>${1}</b>`, null, undefined, false]}</p>`.text).toBe(
      '<p title="&quot;&lt;">a&amp;b<b>1</b></p>',
    );
    expect(html`${new Html('<i>')}`.text).toBe('<i>');
  });

  it('shows control characters but keeps tabs and lines', () => {
    expect(html`${'a\u0000\u001b\t\n\rb'}`.text).toBe('a␀␛\t\n␍b');
  });
});

describe('numbers', () => {
  it('are written for people', () => {
    expect([percent(0.5), percent(-0.0001), percent(null), percent(Number.NaN)]).toEqual(['50.0%', '0.0%', '–', '–']);
    expect([percentRange([0.4587, 0.5562]), percentRange(undefined)]).toEqual(['45.9–55.6%', '–']);
    expect([points(0.125), points(-0.065), points(0), points(0.0004)]).toEqual([
      '+12.5 points',
      '−6.5 points',
      '0.0 points',
      '0.0 points',
    ]);
    expect([count(0), count(999), count(1234567), count(-1500)]).toEqual(['0', '999', '1,234,567', '−1,500']);
    expect([shortest(1.5), shortest(2), shortest(10), shortest(0.333)]).toEqual(['1.5', '2', '10', '0.33']);
    expect([significant(0.6994), significant(123.4), significant(0), significant(-2e-7), significant(5e6)]).toEqual([
      '0.699',
      '123',
      '0',
      '−2.00e−7',
      '5.00e+6',
    ]);
    expect([duration(11.4), duration(59.97), duration(114.5), duration(7264), duration(null)]).toEqual([
      '11.4 s',
      '1 min 0 s',
      '1 min 55 s',
      '2 h 1 min',
      '–',
    ]);
    expect([moment('2026-11-23T07:58:01.670Z'), moment('soon'), moment(undefined)]).toEqual([
      '2026-11-23 07:58 UTC',
      '–',
      '–',
    ]);
    expect([cut('abc', 3), cut('abcdef', 3)]).toEqual(['abc', 'abc … (3 more characters)']);
  });
});

describe('axes', () => {
  it.each([
    [[0.44, 0.61], { bounds: [0, 1] as const, minSpan: 0.1 }],
    [[1], { bounds: [0, 1] as const, minSpan: 0.1 }],
    [[0], { bounds: [0, 1] as const, minSpan: 0.1 }],
    [[-2.43, -0.82], {}],
    [[5, 5], {}],
    [[0], {}],
    [[], {}],
    [[1e-9, 2e-9], {}],
    [[1, 1.000001], {}],
    [[-1e12, 3e12], {}],
  ])('hold %j between round ends', (values: number[], options) => {
    const { low, high, ticks } = axisOver(values, options);
    for (const value of values) expect(value >= low - 1e-9 && value <= high + 1e-9).toBe(true);
    expect(low).toBeLessThan(high);
    expect(ticks.length).toBeGreaterThanOrEqual(2);
    expect(ticks.length).toBeLessThanOrEqual(9);
    expect(new Set(ticks).size).toBe(ticks.length);
    if ('bounds' in options) expect(low >= 0 && high <= 1).toBe(true);
  });

  it('widens a flat line, within the bounds', () => {
    expect(axisOver([0.98, 0.98], { bounds: [0, 1], minSpan: 0.1 })).toMatchObject({ low: 0.9, high: 1 });
  });

  it('ticks whole steps', () => {
    expect(wholeTicks(0.5, 14)).toEqual([5, 10]);
    expect(wholeTicks(0.5, 3)).toEqual([1, 2, 3]);
    expect(wholeTicks(1, 1)).toEqual([1]);
  });
});

describe('a chart', () => {
  const options: Omit<ChartOptions, 'series'> = {
    title: 'T',
    xLabel: 'step',
    format: (value, digits) => value.toFixed(digits),
  };
  const draw = (...ys: (number | null)[]) =>
    lineChart({ ...options, series: [{ name: 's', points: ys.map((y, x) => ({ x, y })) }] }).text;
  const lineOf = (chart: string) => /class="line" d="([^"]*)"/.exec(chart)?.[1];

  it('says where it has no value', () => {
    for (const chart of [draw(), draw(null), lineChart({ ...options, series: [] }).text]) {
      expect(chart).toContain('This run has no values for it.');
      expect(chart).not.toContain('<svg');
    }
  });

  it('draws one point as a mark', () => {
    const chart = draw(2);
    expect(chart.match(/class="mark"/g)).toHaveLength(1);
    expect(chart).toContain('<title>s, 0: 2');
    expect(chart).not.toContain('NaN');
  });

  it('breaks the line where a value is missing', () => {
    expect(lineOf(draw(1, 2, null, 3, 4))).toMatch(/^M[\d. ]+L[\d. ]+M[\d. ]+L[\d. ]+$/);
    expect(lineOf(draw(1, Number.NaN, 3))).toMatch(/^M[\d. ]+M[\d. ]+$/);
  });

  it('puts values at their heights, larger ones above', () => {
    const [low, high] = [...(lineOf(draw(0, 10)) as string).matchAll(/[ML][\d.]+ ([\d.]+)/g)].map((found) =>
      Number(found[1]),
    );
    expect(low).toBe(180);
    expect(high).toBe(20);
  });

  it('leaves marks out of long lines, but not of lonely points', () => {
    const many = Array.from({ length: 100 }, (_, i) => i);
    expect(draw(...many)).not.toContain('class="mark"');
    expect(draw(...many, null, 3).match(/class="mark"/g)).toHaveLength(1);
  });

  it('has whiskers, a legend and a text of its values', () => {
    const chart = lineChart({
      ...options,
      categories: ['M1', 'M2'],
      series: [
        {
          name: 'a',
          points: [
            { x: 0, y: 0.5, low: 0.4, high: 0.6 },
            { x: 1, y: 0.6 },
          ],
        },
        { name: 'none', points: [{ x: 0, y: null }] },
        { name: 'b', points: [{ x: 0, y: 0.7 }], dashed: true },
      ],
    }).text;
    expect(chart.match(/class="whisker"/g)).toHaveLength(1);
    expect(chart).toContain('aria-label="T. a: M1 0.500, M2 0.600. b: M1 0.700."');
    expect(chart.match(/<li>/g)).toHaveLength(2);
    // A series keeps its colour when another has no values.
    expect(chart).toContain('series s2');
    expect(chart).not.toContain('series s1');
  });
});

describe('verdicts', () => {
  it('are compared by pair of candidates', () => {
    const made = comparisons([
      verdict(0, 1, 'first'),
      verdict(1, 0, 'second'),
      verdict(0, 2, 'first'),
      verdict(2, 0, 'first'),
      verdict(1, 2, 'tie'),
      verdict(2, 1, 'first'),
      verdict(3, 0, 'second'),
    ]);
    expect(made.map(({ a, b, result, winner }) => [a, b, result, winner])).toEqual([
      [0, 1, 'agree', 0],
      [0, 2, 'flip', null],
      [1, 2, 'open', null],
      [3, 0, 'agree', 0],
    ]);
    expect(countFlips([verdict(0, 1, 'invalid'), verdict(1, 0, 'invalid')])).toBe(0);
  });
});

describe('the choice of trees', () => {
  const pick = (trees: object[]) => {
    const picker = new TreePicker();
    const added = trees.map((one) => picker.add(one));
    return { added, ...picker.picked() };
  };

  it('lets kinds take turns, the fullest of each first', () => {
    const rolled = { rollbacks: 1, correct: false };
    const trees = [
      ...Array.from({ length: 40 }, (_, i) => tree(`plain${i}`, { pair: false, correct: true })),
      ...Array.from({ length: 20 }, (_, i) => tree(`right${i}`, { correct: true })),
      tree('wrong', { correct: false }),
      tree('back', rolled),
      { ...tree('twice', rolled), steps: [...tree('').steps, ...tree('').steps] },
    ];
    const { trees: picked, total, outcomes, distinct } = pick(trees);
    expect(picked.map(({ id }) => id).slice(0, 5)).toEqual(['right0', 'wrong', 'twice', 'right1', 'back']);
    expect(picked).toHaveLength(TREES_PER_MODEL);
    expect(total).toBe(63);
    expect(Object.fromEntries(outcomes)).toEqual({ cap: 40, pair: 24 });
    expect(distinct).toBe(128);
  });

  it('takes what there is, and refuses what is no tree', () => {
    const { added, trees } = pick([
      tree('a', { pair: false }),
      {},
      { id: 'b', problem: '', steps: [null] },
      { ...tree('c'), steps: 3 },
      { ...tree('d'), steps: [{ candidates: [{}], verdicts: [] }] },
      { ...tree('e'), steps: [{ candidates: [], verdicts: [null] }] },
    ]);
    expect(added).toEqual([true, false, false, false, false, false]);
    expect(trees.map(({ id }) => id)).toEqual(['a']);
  });
});

describe('curves', () => {
  const model = (name: string, losses: (number | null)[], key = 'rewards/margins') =>
    ({ name, curve: losses.map((loss, i) => ({ step: i + 1, loss, [key]: i })) }) as unknown as ModelData;

  it('puts updates one after the other with a gap between', () => {
    const { stretches, points: of, thinned } = curvesOf([model('M2', [3, 2]), model('M3', [1])], 'preference');
    expect(thinned).toBe(1);
    expect(stretches).toEqual([
      { x: 0.5, name: 'M2' },
      { x: 2.5, name: 'M3' },
    ]);
    expect(of('loss')).toEqual([
      { x: 1, y: 3 },
      { x: 2, y: 2 },
      { x: 2.5, y: null },
      { x: 3, y: 1 },
    ]);
  });

  it('tells SFT from updates', () => {
    const models = [model('M1', [3], 'epoch'), model('M2', [1])];
    expect(curvesOf(models, 'sft').stretches.map(({ name }) => name)).toEqual(['M1']);
    expect(curvesOf(models, 'preference').stretches.map(({ name }) => name)).toEqual(['M2']);
  });

  it('thins long ones by means that skip missing values', () => {
    const losses = Array.from({ length: 1500 }, (_, i) => (i === 0 ? null : i));
    const { points: of, thinned } = curvesOf([model('M2', losses)], 'preference');
    expect(thinned).toBe(3);
    expect(of('loss')).toHaveLength(500);
    expect(of('loss')[0]).toEqual({ x: 2, y: 1.5 });
    expect(of('loss')[1]).toEqual({ x: 5, y: 4 });
  });
});

describe('movement between two models', () => {
  it('counts the problems only one of them solves', () => {
    const solved = (...rights: boolean[]) => ({ solved: new Map(rights.map((right, i) => [String(i), right])) });
    expect(movement(solved(true, false, false, true), solved(false, true, true, true))).toEqual({ gained: 2, lost: 1 });
    expect(movement(solved(), solved(true))).toBeUndefined();
  });
});

describe('a tree', () => {
  it('says of what it left and of what it took back why', () => {
    const { steps } = tree('p');
    const { candidates, verdicts } = steps[0] as (typeof steps)[number];
    const discarded = ['not_taken', 'rolled_back'].map((reason) => ({ depth: 0, candidates, verdicts, reason }));
    const { text } = treeHtml(tree('p', { discarded }), 'M2', 100);
    expect(text).toContain('left: another solution was taken');
    expect(text).toContain('taken back: the step after it had no spread');
  });

  it('shows wins as a share of the rounds where there are some', () => {
    const record = tree('p');
    const widths = () => [...treeHtml(record, 'M2', 100).text.matchAll(/class="won" width="(\d+)"/g)].map(([, w]) => w);
    expect(widths()).toEqual(['48', '0']);
    for (const step of record.steps) step.rounds = 2;
    expect(widths()).toEqual(['24', '0']);
  });
});
