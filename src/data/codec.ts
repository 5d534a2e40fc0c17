// The text side of a model folder: what the loop and the commands need of a tokenizer. tokenizer.ts implements it
// over the Hugging Face tokenizer and chat template of a model folder.

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant' | 'tool';
  content: string;
}

export interface TextCodec {
  /**
   * Token ids of `text`. `special`: add what the tokenizer's post-processor adds (BOS ...); default false.
   * `continuation`: the text follows other text, so no word-start mark is put before it (SentencePiece); default false.
   */
  encode(text: string, options?: { special?: boolean; continuation?: boolean }): number[];
  /** `encode` of each text, in one call to the tokenizer. */
  encodeMany(texts: readonly string[], options?: { continuation?: boolean }): number[][];
  /** Text of ids; special tokens are left out unless `keepSpecial`. */
  decode(ids: ArrayLike<number>, options?: { keepSpecial?: boolean }): string;
  readonly vocabSize: number;
  /** Ids by token, special and added tokens too, as the tokenizer spells them. */
  vocab(): Record<string, number>;
  /** Ids that end a solution, from generation_config.json, config.json and the tokenizer, in that order. */
  readonly eosIds: number[];
  readonly hasChatTemplate: boolean;
  /** Renders the chat template as text (special tokens included); encode it with `special: false`. */
  renderChat(messages: ChatMessage[], options?: { addGenerationPrompt?: boolean }): string;
  /** UTF-8 bytes of every id laid end to end, offsets [vocab + 1]; special tokens are empty. For stop texts. */
  tokenBytes(vocabSize: number): { bytes: Uint8Array; offsets: Int32Array };
}
