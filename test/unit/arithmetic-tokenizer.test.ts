// The built-in model's tokenizer: the committed file is what the code makes, every text of the generator survives a
// round trip, and every number is spelt digit by digit.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { makeEft, makeIft } from '../../src/arithmetic/index.js';
import { tokenizerJson } from '../../src/arithmetic/tokenizer.js';
import type { TextCodec } from '../../src/data/codec.js';
import { loadCodec } from '../../src/data/tokenizer.js';

const folder = fileURLToPath(new URL('../../recipes/arithmetic-m1', import.meta.url));

describe('tokenizer of the built-in model', () => {
  let codec: TextCodec;

  beforeAll(async () => {
    codec = (await loadCodec(folder)) as TextCodec;
  });

  it('is the one the code makes', () => {
    expect(JSON.parse(readFileSync(`${folder}/tokenizer.json`, 'utf8'))).toEqual(tokenizerJson());
  });

  it('has as many tokens as the model, under 300, and ends solutions with <eos>', () => {
    const config = JSON.parse(readFileSync(`${folder}/config.json`, 'utf8')) as { vocab_size: number };
    expect(codec.vocabSize).toBe(config.vocab_size);
    expect(codec.vocabSize).toBeLessThan(300);
    expect(codec.eosIds).toEqual([0]);
  });

  it('round-trips every text of the generator, with no token for more than one digit', () => {
    const texts = [
      ...makeIft({ split: 'train', count: 100 }).flatMap(({ problem, steps }) => [problem, ...steps]),
      ...makeEft({ split: 'train', count: 100 }).flatMap(({ problem, a, b, critique }) => [problem, a, b, critique]),
    ];
    for (const text of texts) {
      const ids = codec.encode(text);
      expect(codec.decode(ids)).toBe(text);
      expect(ids.filter((id) => /\d/.test(codec.decode([id])))).toHaveLength((text.match(/\d/g) ?? []).length);
    }
  });

  it('spells words it does not know', () => {
    const text = "Zoe's 12 cats, (3) [dogs] & 4 birds: what? ~{}\n";
    const ids = codec.encode(text);
    expect(codec.decode(ids)).toBe(text);
    expect(codec.decode(codec.encode('Zo\u00eb has'), { keepSpecial: true })).toBe('Zo<unk> has');
  });

  it('takes few tokens', () => {
    const step = codec.encode('Step 2: 62 - 18 = 44\n');
    expect(step.map((id) => codec.decode([id]))).toEqual([
      'Step ',
      '2',
      ': ',
      '6',
      '2',
      ' - ',
      '1',
      '8',
      ' = ',
      '4',
      '4',
      '\n',
    ]);
  });

  it('splits the same whether a text is encoded whole or line by line', () => {
    const { problem, steps } = makeIft({ split: 'train', count: 1 })[0]!;
    const lines = [problem, ...steps].map((line) => `${line}\n`);
    expect(codec.encode(lines.join(''))).toEqual(lines.flatMap((line) => codec.encode(line)));
  });
});
