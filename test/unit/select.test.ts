// Wins to choices, verdicts to wins, text to verdicts: the pure rules of judging and selection.

import { describe, expect, it } from 'vitest';
import { selectSchema } from '../../src/config/recipe.js';
import { countVerdicts, tallyWins } from '../../src/judge/tally.js';
import { parseVerdict, readoutVerdict, readPFirst } from '../../src/judge/verdict.js';
import { select } from '../../src/loop/select.js';
import { type Candidate, emptyCounts, type Verdict, type Winner } from '../../src/loop/types.js';

function candidates(...given: Partial<Candidate>[]): Candidate[] {
  return given.map((own, i) => ({
    ids: [10 + i],
    text: `c${i}`,
    logprob: -1,
    count: 1,
    wins: 0,
    finish: 'stop',
    ...own,
  }));
}

const config = (own: object = {}) => selectSchema.parse(own);

describe('select', () => {
  it('takes the most wins and rejects the fewest', () => {
    const given = candidates({ wins: 1 }, { wins: 2 }, { wins: 0 });
    expect(select(given, [0, 1, 2], config(), 3)).toEqual({ kind: 'accept', chosen: 1, rejected: 2, outcome: 'pair' });
  });

  it('breaks ties by count, then by place', () => {
    const given = candidates(
      { wins: 2 },
      { wins: 2, count: 3 },
      { wins: 0 },
      { wins: 0, count: 2 },
      { wins: 0, count: 2 },
    );
    expect(select(given, [0, 1, 2, 3, 4], config(), 3)).toMatchObject({ chosen: 1, rejected: 3 });
    const first = config({ tie_chosen: 'first', tie_rejected: 'first' });
    expect(select(given, [0, 1, 2, 3, 4], first, 3)).toMatchObject({ chosen: 0, rejected: 2 });
  });

  it('breaks ties by log-prob where asked', () => {
    const given = candidates(
      { wins: 1, logprob: -3 },
      { wins: 1, logprob: -2 },
      { wins: 0, logprob: -9 },
      { wins: 0, logprob: -8 },
    );
    const rule = config({ tie_chosen: 'logprob', tie_rejected: 'logprob' });
    expect(select(given, [0, 1, 2, 3], rule, 3)).toMatchObject({ chosen: 1, rejected: 3 });
  });

  it('rolls back without spread, until the cap', () => {
    const given = candidates({ wins: 0.5 }, { wins: 0.5, count: 4 });
    expect(select(given, [0, 1], config(), 1)).toEqual({ kind: 'rollback' });
    expect(select(given, [0, 1], config(), 0)).toEqual({ kind: 'accept', chosen: 1, rejected: null, outcome: 'cap' });
  });

  it('accepts a single candidate, or rolls back where asked', () => {
    const given = candidates({ count: 6 });
    expect(select(given, [0], config(), 3)).toEqual({
      kind: 'accept',
      chosen: 0,
      rejected: null,
      outcome: 'unanimous',
    });
    expect(select(given, [0], config({ on_unanimous: 'rollback' }), 3)).toEqual({ kind: 'rollback' });
    expect(select(given, [0], config({ on_unanimous: 'rollback' }), 0)).toMatchObject({ outcome: 'cap' });
  });

  it('makes no pair of two samples of the same step', () => {
    const given = candidates({ wins: 2, ids: [7, 8] }, { wins: 1.5 }, { wins: 1, ids: [7, 8] });
    expect(select(given, [0, 1, 2], config(), 3)).toMatchObject({ kind: 'accept', chosen: 0, rejected: null });
  });

  it('accepts without a pair below the least margin', () => {
    const given = candidates({ wins: 1.5 }, { wins: 1 }, { wins: 0.5 });
    expect(select(given, [0, 1, 2], config({ min_margin: 1.5 }), 3)).toMatchObject({
      chosen: 0,
      rejected: null,
      outcome: 'margin',
    });
    expect(select(given, [0, 1, 2], config({ min_margin: 1 }), 3)).toMatchObject({
      chosen: 0,
      rejected: 2,
      outcome: 'pair',
    });
  });

  it('leaves out candidates that are not eligible', () => {
    const given = candidates({ wins: 0, count: 9 }, { wins: 1 }, { wins: 0 });
    expect(select(given, [1, 2], config(), 3)).toMatchObject({ chosen: 1, rejected: 2 });
  });
});

function verdict(first: number, second: number, winner: Winner): Verdict {
  return { first, second, winner, pFirst: null };
}

describe('wins', () => {
  it('gives a whole win where both orders agree and half each where they do not', () => {
    expect(tallyWins(2, [verdict(0, 1, 'first'), verdict(1, 0, 'second')])).toEqual([1, 0]);
    expect(tallyWins(2, [verdict(0, 1, 'first'), verdict(1, 0, 'first')])).toEqual([0.5, 0.5]);
  });

  it('gives a whole win in one order alone', () => {
    expect(tallyWins(3, [verdict(0, 1, 'second'), verdict(2, 0, 'first'), verdict(1, 2, 'tie')])).toEqual([
      0, 1.5, 1.5,
    ]);
  });

  it('gives nothing for a verdict that could not be read', () => {
    expect(tallyWins(2, [verdict(0, 1, 'invalid'), verdict(1, 0, 'first')])).toEqual([0, 0.5]);
    expect(tallyWins(2, [verdict(0, 1, 'invalid'), verdict(1, 0, 'invalid')])).toEqual([0, 0]);
  });

  it('sums to one per pair where every verdict was read', () => {
    const winners: Winner[] = ['first', 'second', 'tie'];
    const verdicts: Verdict[] = [];
    for (let i = 0; i < 6; i++)
      for (let j = 0; j < 6; j++) if (i !== j) verdicts.push(verdict(i, j, winners[(3 * i + j) % 3] as Winner));
    expect(tallyWins(6, verdicts).reduce((sum, wins) => sum + wins, 0)).toBeCloseTo(15, 12);
  });

  it('counts flips, first-position wins and parse failures', () => {
    const counts = emptyCounts();
    countVerdicts(counts, [
      ...[verdict(0, 1, 'first'), verdict(1, 0, 'first')],
      ...[verdict(0, 2, 'first'), verdict(2, 0, 'second')],
      ...[verdict(1, 2, 'second'), verdict(2, 1, 'invalid')],
    ]);
    expect(counts).toMatchObject({
      verdicts: 6,
      parse_failures: 1,
      decided: 5,
      first_wins: 3,
      both_orders: 2,
      flips: 1,
    });
  });
});

const TEXTS = { a: '[[A]]', b: '[[B]]' };

describe('verdicts in text', () => {
  it.each([
    ['A is better. [[A]]', 'first', 13],
    ['[[B]]', 'second', 0],
    ['not [[B]] but [[A]]', 'second', 4],
    ['no verdict [A]', 'invalid', -1],
    ['', 'invalid', -1],
  ])('%s', (text, winner, at) => {
    expect(parseVerdict(text, TEXTS)).toEqual({ winner, at });
  });

  it('takes the longer of two verdicts that start alike', () => {
    expect(parseVerdict('so A2', { a: 'A', b: 'A2' }).winner).toBe('second');
    expect(parseVerdict('so A', { a: 'A', b: 'A2' }).winner).toBe('first');
  });

  const pieces = (...texts: string[]) => texts.map((text) => Buffer.from(text));
  const read = (texts: string[], logprobs: number[], verdicts = TEXTS) => {
    const text = texts.join('');
    return readPFirst(parseVerdict(text, verdicts), text, verdicts, pieces(...texts), logprobs);
  };

  it('reads the probability at the token that holds the label', () => {
    const logprobs = [Math.log(0.5), Math.log(0.9), Math.log(0.8), Math.log(0.7)];
    expect(read(['é so ', ' [[', 'A', ']]'], logprobs)).toBeCloseTo(0.8, 12);
    expect(read(['é so ', ' [[', 'B', ']]'], logprobs)).toBeCloseTo(0.2, 12);
    expect(read(['é so ', '[[A]]', '\n', ''], logprobs)).toBeCloseTo(0.9, 12);
  });

  it('reads none without a verdict or where one text starts the other', () => {
    expect(read(['hm'], [-1])).toBeNull();
    expect(read(['A'], [-1], { a: 'A', b: 'A2' })).toBeNull();
  });

  it('turns two label log-probs into a verdict', () => {
    expect(readoutVerdict(Math.log(0.6), Math.log(0.2))).toEqual({ winner: 'first', pFirst: expect.closeTo(0.75, 12) });
    expect(readoutVerdict(-2, -1).winner).toBe('second');
    expect(readoutVerdict(-1, -1)).toEqual({ winner: 'tie', pFirst: 0.5 });
    expect(readoutVerdict(Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY)).toEqual({ winner: 'tie', pFirst: 0.5 });
  });
});
