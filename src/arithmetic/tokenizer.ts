// The tokenizer of the built-in model: every word of the problems, solutions and critiques is one token, every digit is
// one token, and any other printable ASCII character is a token of its own, so typed-in problems can be read too.

import { NAMES, SCENES, THINGS } from './words.js';

const SPECIALS = ['<eos>', '<unk>'];

/** Pieces of solutions, judge prompts and critiques. */
const PIECES = [
  'Step ',
  'Answer: ',
  ': ',
  ' + ',
  ' - ',
  ' = ',
  ' (',
  ') = ',
  ', ',
  'Judge: ',
  'A: ',
  'B: ',
  ' ok',
  ' bad',
  '[[A]]',
  '[[B]]',
];

const LONG_PIECES = [' How many', ' have now?', ' are left?', ' are in the box?', 'There are', ' in a box.', ' more.'];

function vocabulary(): string[] {
  const characters = ['\n', ...Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i))];
  const texts = SCENES.flatMap((scene) => [scene.opening, ...scene.gains, ...scene.losses, scene.question]);
  const words = texts.flatMap((text) => text.match(/ ?[A-Za-z]+/g) ?? []);
  const names = NAMES.flatMap((name) => [name, ` ${name}`]);
  const things = THINGS.map((thing) => ` ${thing}`);
  // A sentence may open a problem or follow another.
  const openers = words.filter((word) => !word.startsWith(' ')).flatMap((word) => [word, ` ${word}`]);
  const inside = words.filter((word) => word.startsWith(' '));
  return [
    ...new Set([...SPECIALS, ...characters, ...PIECES, ...LONG_PIECES, ...names, ...things, ...openers, ...inside]),
  ];
}

/** tokenizer.json of the built-in model: a unigram model whose scores make it always take the fewest tokens. */
export function tokenizerJson(): object {
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIALS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: 'Fuse' },
    model: { type: 'Unigram', unk_id: 1, vocab: vocabulary().map((token) => [token, -1]), byte_fallback: false },
  };
}
