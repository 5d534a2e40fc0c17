import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TextCodec } from '../../src/data/codec.js';
import { loadCodec } from '../../src/data/tokenizer.js';
import { writeByteTokenizer, writeSentencePieceTokenizer } from '../helpers/tokenizer-folder.js';

const root = mkdtempSync(join(tmpdir(), 'stepward-tokenizer-'));
afterAll(() => rmSync(root, { recursive: true }));

let count = 0;
/** A folder with the byte-level tokenizer and further files. */
async function open(config: object = {}, files: Record<string, string> = {}): Promise<TextCodec> {
  const folder = join(root, `${count++}`);
  writeByteTokenizer(folder, config);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  return (await loadCodec(folder)) as TextCodec;
}

const STEP = 3 + 256 + 3;
const byte = (character: string): number => 3 + character.charCodeAt(0);

describe('encode and decode', () => {
  let codec: TextCodec;
  beforeAll(async () => {
    codec = await open();
  });

  it('adds what the post-processor adds only for whole prompts, and cuts nothing', () => {
    expect(codec.encode('Step 1: b')).toEqual([STEP, byte(' '), byte('1'), byte(':'), byte(' '), byte('b')]);
    expect(codec.encode('Step', { special: true })).toEqual([0, STEP]);
    expect(codec.encode('', { special: true })).toEqual([0]);
    expect(codec.encode('')).toEqual([]);
  });

  it('takes special tokens written out in the text as such', () => {
    expect(codec.encode('Step</s>')).toEqual([STEP, 1]);
  });

  it('decodes with and without special tokens, also from typed arrays', () => {
    expect(codec.decode(Int32Array.of(0, STEP, 1))).toBe('Step');
    expect(codec.decode([0, STEP, 1], { keepSpecial: true })).toBe('<s>Step</s>');
    for (const text of ['naïve 🎉\n\n  x', 'a\u2028b']) expect(codec.decode(codec.encode(text))).toBe(text);
  });

  it('counts the vocabulary with its added tokens', () => {
    expect(codec.vocabSize).toBe(3 + 256 + 4);
  });
});

describe('tokenBytes', () => {
  it('gives every token its bytes, special and unused ids none, for byte-level tokenizers', async () => {
    const codec = await open();
    const { bytes, offsets } = codec.tokenBytes(300);
    expect(offsets).toHaveLength(301);
    const textOf = (ids: number[]): string =>
      Buffer.concat(ids.map((id) => Buffer.from(bytes.subarray(offsets[id], offsets[id + 1])))).toString();
    const text = 'Step 1: naïve 🎉\n\ta';
    expect(textOf(codec.encode(text))).toBe(text);
    expect(textOf([0, 1, 2, 299])).toBe('');
    // A character may be cut across tokens.
    expect(codec.encode('é')).toHaveLength(2);
  });

  it('gives spaces and fallback bytes for SentencePiece', async () => {
    const folder = join(root, 'sp-bytes');
    writeSentencePieceTokenizer(folder);
    const codec = (await loadCodec(folder)) as TextCodec;
    const { bytes, offsets } = codec.tokenBytes(codec.vocabSize);
    const ids = codec.encode('Step\n Step é');
    expect(Buffer.concat(ids.map((id) => bytes.subarray(offsets[id], offsets[id + 1]))).toString()).toBe(
      ' Step\n Step é',
    );
  });
});

it('puts no word-start mark before a continuation', async () => {
  const folder = join(root, 'sp');
  writeSentencePieceTokenizer(folder);
  const codec = (await loadCodec(folder)) as TextCodec;
  const [marked, plain] = [codec.encode('Step'), codec.encode('Step', { continuation: true })];
  expect(marked).toHaveLength(1);
  expect(plain).toHaveLength(1);
  expect(plain).not.toEqual(marked);
  expect(codec.encode(' Step', { continuation: true })).toEqual(marked);
  expect(codec.encodeMany(['Step', '', ' Step'], { continuation: true })).toEqual([plain, [], marked]);
  expect(codec.encodeMany(['Step', ''])).toEqual([marked, []]);
  expect(codec.encodeMany([])).toEqual([]);
});

describe('eosIds', () => {
  it("are generation_config.json's, with the tokenizer's own first where they hold it", async () => {
    const files = { 'generation_config.json': '{"eos_token_id": [2, 1]}', 'config.json': '{"eos_token_id": 9}' };
    expect((await open({}, files)).eosIds).toEqual([1, 2]);
    expect((await open({ eos_token: '<s>' }, files)).eosIds).toEqual([2, 1]);
  });

  it("fall back to config.json's, then to the tokenizer's", async () => {
    expect((await open({}, { 'generation_config.json': '{}', 'config.json': '{"eos_token_id": 2}' })).eosIds).toEqual([
      2,
    ]);
    expect((await open({ eos_token: { content: '</s>' } })).eosIds).toEqual([1]);
  });
});

describe('renderChat', () => {
  const messages = [
    { role: 'user' as const, content: 'hi' },
    { role: 'assistant' as const, content: 'yo' },
  ];
  const TEMPLATE =
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}" +
    '{% if add_generation_prompt %}<assistant>{% endif %}';

  it('renders with the special tokens and the generation prompt', async () => {
    const codec = await open({ chat_template: TEMPLATE });
    expect(codec.hasChatTemplate).toBe(true);
    expect(codec.renderChat(messages)).toBe('<s><user>hi</s><assistant>yo</s>');
    expect(codec.renderChat(messages.slice(0, 1), { addGenerationPrompt: true })).toBe('<s><user>hi</s><assistant>');
  });

  it('takes chat_template.jinja first, and "default" of named templates', async () => {
    const named = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'named' },
    ];
    expect((await open({ chat_template: named })).renderChat(messages)).toBe('named');
    expect((await open({ chat_template: named }, { 'chat_template.jinja': 'file' })).renderChat(messages)).toBe('file');
  });

  it('says what a template refuses', async () => {
    const codec = await open({ chat_template: "{{ raise_exception('roles must alternate') }}" });
    expect(() => codec.renderChat(messages)).toThrow(
      /cannot render messages with roles user, assistant: .*roles must alternate/,
    );
    expect(() => codecWithout.renderChat(messages)).toThrow('chat template');
  });

  let codecWithout: TextCodec;
  beforeAll(async () => {
    codecWithout = await open();
  });
});

it('is undefined for a folder without tokenizer.json', async () => {
  const folder = join(root, 'bare');
  mkdirSync(folder);
  expect(await loadCodec(folder)).toBeUndefined();
});

it.each(['{"model": ', '{"model": {"type": "Nonsense"}}', '[]'])(
  'names the file of a broken tokenizer %s',
  async (content) => {
    const folder = join(root, `broken${count++}`);
    mkdirSync(folder);
    writeFileSync(join(folder, 'tokenizer.json'), content);
    await expect(loadCodec(folder)).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringContaining(join(folder, 'tokenizer.json')),
    });
  },
);
