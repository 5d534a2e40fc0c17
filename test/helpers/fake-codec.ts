// A tokenizer of one token per character: id = character code, 1 ends a text. Special: 2 starts one (BOS).

import type { ChatMessage, TextCodec } from '../../src/data/codec.js';

export const EOS = 1;
export const BOS = 2;

export class CharacterCodec implements TextCodec {
  readonly vocabSize = 128;
  readonly eosIds = [EOS];
  readonly hasChatTemplate: boolean;
  readonly #bos: boolean;

  constructor(options: { chat?: boolean; bos?: boolean } = {}) {
    this.hasChatTemplate = options.chat ?? false;
    this.#bos = options.bos ?? false;
  }

  encode(text: string, options: { special?: boolean; continuation?: boolean } = {}): number[] {
    const ids = [...text].map((character) => character.charCodeAt(0));
    return options.special && this.#bos ? [BOS, ...ids] : ids;
  }

  encodeMany(texts: readonly string[], options: { continuation?: boolean } = {}): number[][] {
    return texts.map((text) => this.encode(text, options));
  }

  decode(ids: ArrayLike<number>, options: { keepSpecial?: boolean } = {}): string {
    const special: Record<number, string> = options.keepSpecial
      ? { [EOS]: '<eos>', [BOS]: '<bos>' }
      : { [EOS]: '', [BOS]: '' };
    return Array.from(ids, (id) => special[id] ?? String.fromCharCode(id)).join('');
  }

  renderChat(messages: ChatMessage[], options: { addGenerationPrompt?: boolean } = {}): string {
    const turns = messages.map(({ role, content }) => `<${role}>${content.trim()}</${role}>`);
    return turns.join('') + (options.addGenerationPrompt ? '<assistant>' : '');
  }

  vocab(): Record<string, number> {
    return Object.fromEntries(Array.from({ length: this.vocabSize }, (_, id) => [String.fromCharCode(id), id]));
  }

  tokenBytes(vocabSize: number): { bytes: Uint8Array; offsets: Int32Array } {
    const bytes: number[] = [];
    const offsets = new Int32Array(vocabSize + 1);
    for (let id = 0; id < vocabSize; id++) {
      if (id !== EOS && id !== BOS) bytes.push(id);
      offsets[id + 1] = bytes.length;
    }
    return { bytes: Uint8Array.from(bytes), offsets };
  }
}
