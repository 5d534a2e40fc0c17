// Prompts as token ids: cut at their slots, filled with ids as they are, the same for training as for asking.

import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CompiledPrompts } from '../../src/prompts/compile.js';
import { eftExample, iftExample, judgeView } from '../../src/prompts/examples.js';
import { DEFAULT_FORMAT, formatSchema } from '../../src/prompts/format.js';
import { modelFormat, readFormat, writeModelFormat } from '../../src/prompts/load.js';
import { BOS, CharacterCodec, EOS } from '../helpers/fake-codec.js';

const SHORT = formatSchema.parse({
  solve: 'Q: {problem}\n',
  judge: 'J {problem}|{steps}|{a}|{b}|',
  readout: { suffix: '#', labels: ['A', 'B'] },
});

function compiled(options: { chat?: boolean; bos?: boolean } = {}, format = SHORT) {
  const codec = new CharacterCodec(options);
  return { codec, prompts: new CompiledPrompts(codec, format) };
}

describe('compiled prompts', () => {
  it('fills the slots with the ids it is given', () => {
    const { codec, prompts } = compiled();
    expect(codec.decode(prompts.solve(' 1+1 '))).toBe('Q: 1+1\n');
    // 5 is no character of the text: it can only have come through as an id.
    const ids = prompts.judge({ problem: '1+1', steps: [5, 5], a: [6], b: [7, 8] });
    expect(ids).toEqual([
      ...codec.encode('J 1+1|'),
      5,
      5,
      ...codec.encode('|'),
      6,
      ...codec.encode('|'),
      7,
      8,
      ...codec.encode('|'),
    ]);
    expect(prompts.judge({ problem: '1+1', steps: [], a: [6], b: [7] }, true).slice(-2)).toEqual(codec.encode('|#'));
  });

  it('starts a plain prompt with what the tokenizer puts before a text', () => {
    const { prompts } = compiled({ bos: true });
    expect(prompts.solve('1')[0]).toBe(BOS);
    expect(prompts.judge({ problem: '1', steps: [], a: [], b: [] }).filter((id) => id === BOS)).toEqual([BOS]);
  });

  it('renders the chat template once, with the system message', () => {
    const format = formatSchema.parse({ ...SHORT, system: 'be brief' });
    const { codec, prompts } = compiled({ chat: true, bos: true }, format);
    expect(codec.decode(prompts.solve('1+1'))).toBe('<system>be brief</system><user>Q: 1+1</user><assistant>');
    expect(
      codec.decode(
        prompts.judge({ problem: '1', steps: codec.encode('s'), a: codec.encode('x'), b: codec.encode('y') }),
      ),
    ).toBe('<system>be brief</system><user>J 1|s|x|y|</user><assistant>');
    expect(() => compiled({}, formatSchema.parse({ ...SHORT, chat: true }))).toThrow(/chat template/);
  });

  it('keeps text that looks like a slot or a replacement pattern', () => {
    const { codec, prompts } = compiled();
    expect(codec.decode(prompts.solve('{a} $& $1'))).toBe('Q: {a} $& $1\n');
  });

  it('takes slots in any order', () => {
    const { codec, prompts } = compiled({}, formatSchema.parse({ ...SHORT, judge: '{b}<{a}<{steps}<{problem}' }));
    expect(
      codec.decode(
        prompts.judge({ problem: 'p', steps: codec.encode('s'), a: codec.encode('x'), b: codec.encode('y') }),
      ),
    ).toBe('y<x<s<p');
  });

  it('ends a step with its delimiter, the last with EOS, and shows neither', () => {
    const { codec, prompts } = compiled();
    expect(prompts.step('ab', false)).toEqual(codec.encode('ab\n'));
    expect(prompts.step('ab', true)).toEqual([...codec.encode('ab'), EOS]);
    expect(prompts.shown(codec.encode('a b \n\n'))).toEqual(codec.encode('a b'));
    expect(prompts.shown([...codec.encode('ab'), EOS])).toEqual(codec.encode('ab'));
  });

  it('does not mark the start of a text in the middle of a prompt', () => {
    // Like Llama 2: a text that does not continue another starts with a space of its own.
    class Marking extends CharacterCodec {
      override encode(text: string, options: { special?: boolean; continuation?: boolean } = {}): number[] {
        return super.encode(options.continuation ? text : ` ${text}`);
      }
    }
    const codec = new Marking();
    const prompts = new CompiledPrompts(codec, SHORT);
    expect(codec.decode(prompts.step('ab', false))).toBe('ab\n');
    // Only where the prompt starts, in both.
    expect(codec.decode(prompts.solve('p'))).toBe(' Q: p\n');
    expect(codec.decode(prompts.judge({ problem: 'p', steps: [], a: [], b: [] }))).toBe(' J p||||');
  });

  it('refuses verdicts that the tokenizer cannot write, where they are needed', () => {
    class Small extends CharacterCodec {
      override encode(text: string): number[] {
        return super.encode(text.replaceAll('[', '?'));
      }
    }
    const prompts = new CompiledPrompts(new Small(), SHORT);
    expect(() => prompts.checkJudging('critique')).toThrow(
      'format.verdicts.a: expected a text that the tokenizer can write, "[[A]]" becomes "??A]]"',
    );
    expect(() => prompts.checkJudging('readout')).not.toThrow();
    expect(() => compiled().prompts.checkJudging('critique')).not.toThrow();
  });

  it('refuses readout labels of more than one token', () => {
    expect(compiled().prompts.labelIds()).toEqual([65, 66]);
    const long = compiled({}, formatSchema.parse({ ...SHORT, readout: { labels: ['AB', 'C'] } }));
    expect(() => long.prompts.checkJudging('readout')).toThrow(/labels\[0\]: expected a text of one token, "AB" has 2/);
    const same = compiled({}, formatSchema.parse({ ...SHORT, readout: { labels: ['A', 'A'] } }));
    expect(() => same.prompts.labelIds()).toThrow(/two different/);
  });
});

describe('training examples', () => {
  const pair = { problem: '1+1', steps: ['s1'], a: 'x', b: 'y', critique: 'x is right', label: 'a' as const };

  it('puts loss on the steps alone', () => {
    const { codec, prompts } = compiled();
    const { segments } = iftExample(prompts, { problem: '1+1', steps: ['one', 'two'] });
    expect(segments.map(({ weight }) => weight)).toEqual([0, 1, 1]);
    expect(
      codec.decode(
        segments.flatMap(({ ids }) => ids),
        { keepSpecial: true },
      ),
    ).toBe('Q: 1+1\none\ntwo<eos>');
  });

  it('asks the judge in training exactly what it is asked later', () => {
    const { codec, prompts } = compiled();
    const { segments } = eftExample(prompts, pair);
    const asked = prompts.judge({
      problem: '1+1',
      steps: prompts.step('s1', false),
      a: prompts.shown(codec.encode('x\n')),
      b: prompts.shown([...codec.encode('y'), EOS]),
    });
    expect(segments[0]).toEqual({ ids: asked, weight: 0 });
    expect(codec.decode(segments[1]?.ids ?? [], { keepSpecial: true })).toBe('x is right\n[[A]]<eos>');
    expect(prompts.judge(judgeView(prompts, pair))).toEqual(asked);
  });

  it('takes a critique with its verdict as it is', () => {
    const { codec, prompts } = compiled();
    expect(codec.decode(prompts.critique('so [[B]]', 'b'))).toBe('so [[B]]');
  });
});

describe('format files', () => {
  it('come from the model folder, a file, or are built in', () => {
    const directory = mkdtempSync(join(tmpdir(), 'stepward-format-'));
    expect(modelFormat(directory)).toEqual(DEFAULT_FORMAT);
    writeModelFormat(directory, SHORT);
    expect(modelFormat(directory)).toEqual(SHORT);
    writeFileSync(join(directory, 'own.yaml'), 'solve: "Do {problem}: "\n');
    expect(readFormat(join(directory, 'own.yaml'))).toEqual({ ...DEFAULT_FORMAT, solve: 'Do {problem}: ' });
    writeFileSync(join(directory, 'bad.json'), '{"format": {"solv": "x"}}');
    expect(() => readFormat(join(directory, 'bad.json'))).toThrow(
      /bad.json: unknown key format.solv; did you mean format.solve\?/,
    );
    expect(() => readFormat(join(directory, 'none.json'))).toThrow(/none.json: no such format file/);
  });
});
