// Texts of prompts to token ids: a text that comes again is looked up, and texts known beforehand are encoded in one
// call, since each call into the tokenizer costs more than the encoding.

import type { TextCodec } from '../data/codec.js';

/** Characters remembered at most; then all is forgotten. */
const MOST_CHARACTERS = 4_000_000;

export class PieceEncoder {
  readonly #codec: TextCodec;
  /** Texts that start a sequence, and texts that follow others. */
  readonly #starts = new Map<string, number[]>();
  readonly #continuations = new Map<string, number[]>();
  #characters = 0;
  #wanted: { starts: Set<string>; continuations: Set<string> } | undefined;

  constructor(codec: TextCodec) {
    this.#codec = codec;
  }

  /** Ids of `text`, which starts a sequence or follows other text. They are shared: do not change them. */
  encode(text: string, options: { start?: boolean } = {}): number[] {
    if (text === '') return [];
    const start = options.start ?? false;
    const known = (start ? this.#starts : this.#continuations).get(text);
    if (known) return known;
    if (this.#wanted) {
      this.#wanted[start ? 'starts' : 'continuations'].add(text);
      return [];
    }
    if (this.#characters > MOST_CHARACTERS) this.#forget();
    return this.#remember(text, this.#codec.encode(text, { continuation: !start }), start);
  }

  /**
   * What `make` gives, with all the texts it encodes taken together: it is run once to see which they are, where every
   * text not known yet has no ids, and once more for good. So it must do nothing but give its result.
   */
  batch<T>(make: () => T): T {
    if (this.#characters > MOST_CHARACTERS) this.#forget();
    const wanted = { starts: new Set<string>(), continuations: new Set<string>() };
    this.#wanted = wanted;
    try {
      make();
    } finally {
      this.#wanted = undefined;
    }
    for (const [texts, start] of [
      [[...wanted.starts], true],
      [[...wanted.continuations], false],
    ] as const) {
      const ids = this.#codec.encodeMany(texts, { continuation: !start });
      for (const [i, text] of texts.entries()) this.#remember(text, ids[i] as number[], start);
    }
    return make();
  }

  #remember(text: string, ids: number[], start: boolean): number[] {
    (start ? this.#starts : this.#continuations).set(text, ids);
    this.#characters += text.length;
    return ids;
  }

  #forget(): void {
    this.#starts.clear();
    this.#continuations.clear();
    this.#characters = 0;
  }
}
