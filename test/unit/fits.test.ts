// Records that leave the model no room: refused where they were read, with their place and lengths.

import { describe, expect, it } from 'vitest';
import { fittingExamples, fittingPairs, fittingProblems } from '../../src/loop/fits.js';
import type { Placed } from '../../src/loop/records.js';
import { CompiledPrompts } from '../../src/prompts/compile.js';
import { eftExample, iftExample } from '../../src/prompts/examples.js';
import { formatSchema } from '../../src/prompts/format.js';
import { CharacterCodec } from '../helpers/fake-codec.js';
import { FakeEngine } from '../helpers/fake-engine.js';

const FORMAT = formatSchema.parse({
  solve: 'Q {problem}:',
  judge: 'J {problem}|{steps}|{a}|{b}|',
  readout: { suffix: '#', labels: ['A', 'B'] },
});

function fitFor(maxPositions: number) {
  const { info } = new FakeEngine({ respond: () => '', maxPositions });
  return { prompts: new CompiledPrompts(new CharacterCodec(), FORMAT), engine: { info } };
}

function placed<T>(...records: T[]): Placed<T>[] {
  return records.map((record, i) => ({ place: `in.jsonl:${i + 1}`, record }));
}

describe('records that must fit', () => {
  it('problems with room for one new token', () => {
    // "Q 12345:" is 8 tokens.
    const problems = { problems: placed({ id: 1, problem: '1' }, { id: 2, problem: '12345' }), answers: new Map() };
    expect(fittingProblems(fitFor(9), problems).problems).toEqual([
      { id: 1, problem: '1' },
      { id: 2, problem: '12345' },
    ]);
    expect(() => fittingProblems(fitFor(8), problems)).toThrow(
      "in.jsonl:2: expected at most 8 tokens, the model's positions, got 9 (prompt 8 + one new token 1)",
    );
    expect(() => fittingProblems(fitFor(8), problems)).toThrow(
      expect.objectContaining({ code: 'CONTEXT_TOO_LONG', exitCode: 2 }),
    );
  });

  it('pairs with room for a critique, or none where labels are read', () => {
    // "J p||xx|y|" is 10 tokens, with the readout suffix 11.
    const pairs = placed({ id: 1, problem: 'p', steps: [], a: 'xx', b: 'y' });
    expect(fittingPairs(fitFor(11), pairs, 'critique')).toEqual(pairs.map(({ record }) => record));
    expect(() => fittingPairs(fitFor(10), pairs, 'critique')).toThrow(
      /in.jsonl:1: .* got 11 \(judge prompt 10 \+ one new/,
    );
    expect(fittingPairs(fitFor(11), pairs, 'readout').length).toBe(1);
    expect(() => fittingPairs(fitFor(10), pairs, 'readout')).toThrow(/got 11 \(judge prompt 11\)/);
  });

  it('examples with all their tokens', () => {
    // "Q 1:" and "ab\n", "c" with EOS: 4 + 3 + 2.
    const ift = placed({ problem: '1', steps: ['ab', 'c'] });
    const own = fitFor(9);
    expect(fittingExamples(own, ift, (record) => iftExample(own.prompts, record)).length).toBe(1);
    const tight = fitFor(8);
    expect(() => fittingExamples(tight, ift, (record) => iftExample(tight.prompts, record))).toThrow(
      /in.jsonl:1: .* at most 8 tokens, .* got 9 \(prompt 4 \+ completion 5\)/,
    );
  });

  it('examples made together are those made one by one, from few calls to the tokenizer', () => {
    const records = Array.from({ length: 3000 }, (_, i) => ({
      problem: `p${i}`,
      steps: [`s${i % 7}`],
      a: `x${i % 50}`,
      b: 'y',
      critique: `c${i}`,
      label: 'a' as const,
    }));
    let calls = 0;
    class Counting extends CharacterCodec {
      override encode(text: string): number[] {
        calls++;
        return super.encode(text);
      }
      override encodeMany(texts: readonly string[]): number[][] {
        calls++;
        return texts.map((text) => super.encode(text));
      }
    }
    const { engine } = fitFor(1000);
    const together = { prompts: new CompiledPrompts(new Counting(), FORMAT), engine };
    calls = 0;
    const examples = fittingExamples(together, placed(...records), (record) => eftExample(together.prompts, record));
    // Three batches, two kinds of text each.
    expect(calls).toBeLessThanOrEqual(6);
    const { prompts } = fitFor(1000);
    expect(examples).toEqual(records.map((record) => eftExample(prompts, record)));
  });
});
