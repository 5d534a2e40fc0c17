// Ids to text by the bytes of each token: the same bytes the engine matches stop texts on, so that what is parsed is
// what ended the row. Needs no call into the tokenizer.

import type { TextCodec } from '../data/codec.js';

export class TokenText {
  readonly #codec: TextCodec;
  readonly #bytes: Buffer;
  readonly #offsets: Int32Array;
  readonly #specials = new Map<number, Buffer>();

  /** `bytes`, `offsets`: TextCodec.tokenBytes. */
  constructor(codec: TextCodec, bytes: Uint8Array, offsets: Int32Array) {
    this.#codec = codec;
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#offsets = offsets;
  }

  /** Text of ids without EOS. Other special tokens are written out: a verdict may be one. */
  decode(ids: ArrayLike<number>): string {
    return Buffer.concat(this.pieces(ids)).toString('utf8');
  }

  /** Text of ids with every special token written out, as a prompt that is tokenised again needs it. */
  decodeAll(ids: ArrayLike<number>): string {
    return Buffer.concat(Array.from(ids, (id) => this.#piece(id, true))).toString('utf8');
  }

  /** Bytes of each id, in order. */
  pieces(ids: ArrayLike<number>): Buffer[] {
    return Array.from(ids, (id) => this.#piece(id, false));
  }

  #piece(id: number, withEos: boolean): Buffer {
    const start = this.#offsets[id] ?? 0;
    const end = this.#offsets[id + 1] ?? start;
    if (end > start) return this.#bytes.subarray(start, end);
    if (!withEos && this.#codec.eosIds.includes(id)) return EMPTY;
    let special = this.#specials.get(id);
    if (!special) {
      special = Buffer.from(this.#codec.decode([id], { keepSpecial: true }), 'utf8');
      this.#specials.set(id, special);
    }
    return special;
  }
}

const EMPTY = Buffer.alloc(0);
