// Tiny tokenizers in Hugging Face form, written into a folder: what loadCodec reads, without weights.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const special = (id: number, content: string) => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
});

/** GPT-2's byte alphabet in its order: printable bytes first, then the other 68. */
function byteAlphabet(): string[] {
  const printable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  const characters = Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : next++));
  return characters;
}

/** Ids of the byte-level tokenizer: 0 <s>, 1 </s>, 2 <turn>, then one id per byte, then merges " a", "St", "Ste", "Step". */
export function writeByteTokenizer(directory: string, config: object = {}): void {
  const vocab: Record<string, number> = { '<s>': 0, '</s>': 1, '<turn>': 2 };
  for (const character of byteAlphabet()) vocab[character] = Object.keys(vocab).length;
  const merges = [
    ['\u0120', 'a'],
    ['S', 't'],
    ['St', 'e'],
    ['Ste', 'p'],
  ] as const;
  for (const [a, b] of merges) vocab[a + b] = Object.keys(vocab).length;
  write(directory, config, {
    version: '1.0',
    added_tokens: [special(0, '<s>'), special(1, '</s>'), special(2, '<turn>')],
    // A saved truncation must not cut prompts.
    truncation: { direction: 'Right', max_length: 4, strategy: 'LongestFirst', stride: 0 },
    padding: null,
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 0 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [0], tokens: ['<s>'] } },
    },
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
    model: { type: 'BPE', dropout: null, unk_token: null, fuse_unk: false, byte_fallback: false, vocab, merges },
  });
}

/** SentencePiece in Llama 2's form: a word-start mark before any text, byte fallback. */
export function writeSentencePieceTokenizer(directory: string): void {
  const vocab: Record<string, number> = { '<unk>': 0, '<s>': 1, '</s>': 2 };
  for (let b = 0; b < 256; b++) vocab[`<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`] = 3 + b;
  for (const piece of ['\u2581', 'S', 't', 'e', 'p', 'St', 'ep', 'Step', '\u2581Step'])
    vocab[piece] = Object.keys(vocab).length;
  write(
    directory,
    { bos_token: '<s>', eos_token: { content: '</s>' } },
    {
      version: '1.0',
      added_tokens: [special(0, '<unk>'), special(1, '<s>'), special(2, '</s>')],
      truncation: null,
      padding: null,
      normalizer: {
        type: 'Sequence',
        normalizers: [
          { type: 'Prepend', prepend: '\u2581' },
          { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' },
        ],
      },
      pre_tokenizer: null,
      post_processor: null,
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          { type: 'Strip', content: ' ', start: 1, stop: 0 },
        ],
      },
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: '<unk>',
        fuse_unk: true,
        byte_fallback: true,
        vocab,
        merges: [
          ['S', 't'],
          ['e', 'p'],
          ['St', 'ep'],
          ['\u2581', 'Step'],
        ],
      },
    },
  );
}

function write(directory: string, config: object, tokenizer: object): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'tokenizer.json'), JSON.stringify(tokenizer));
  const base = { bos_token: '<s>', eos_token: '</s>' };
  writeFileSync(join(directory, 'tokenizer_config.json'), JSON.stringify({ ...base, ...config }));
}
