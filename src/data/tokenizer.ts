// TextCodec over the tokenizer of a Hugging Face folder: tokenizer.json by Hugging Face's own Rust library, chat
// templates by their Jinja. What a prompt says is for prompts/ and records.ts.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StepwardError } from '../errors.js';
import { type ChatTemplate, loadChatTemplate } from './chat-template.js';
import type { ChatMessage, TextCodec } from './codec.js';
import { bytesOfTokens, type TokenizerJson } from './token-bytes.js';
import { startTokenizerWorker, type TokenizerWorker } from './tokenizer-worker.js';

interface TokenizerConfig {
  [token: `${string}_token`]: unknown;
  chat_template?: unknown;
}

/** Special tokens by role as text, `bos_token` and so on. */
export type SpecialTokens = Record<string, string>;

/** The codec of a model folder, or undefined where it has no tokenizer.json. Throws CHECKPOINT_INVALID. */
export async function loadCodec(directory: string): Promise<TextCodec | undefined> {
  const path = join(directory, 'tokenizer.json');
  const tokenizer = await readJson<TokenizerJson>(path);
  if (!tokenizer) return undefined;
  const config = (await readJson<TokenizerConfig>(join(directory, 'tokenizer_config.json'))) ?? {};
  const map = (await readJson<TokenizerConfig>(join(directory, 'special_tokens_map.json'))) ?? {};
  const special = { ...specialTokens(map), ...specialTokens(config) };
  const template = await loadChatTemplate(directory, config.chat_template, special);
  const worker = await startTokenizerWorker(path);
  const eosIds = orderEosIds(
    (await configuredEosIds(directory)) ?? [],
    special.eos_token === undefined ? undefined : worker.call('tokenToId', special.eos_token),
  );
  return new HuggingFaceCodec(worker, tokenizer, template, eosIds);
}

// What stands before a continuation while it is encoded, and is cut off again.
const LEAD = '\n';

class HuggingFaceCodec implements TextCodec {
  readonly vocabSize: number;
  /** Ids of LEAD where the tokenizer marks the start of any text as a word's start. */
  readonly #lead: number[] | undefined;

  constructor(
    readonly worker: TokenizerWorker,
    readonly tokenizer: TokenizerJson,
    readonly template: ChatTemplate | undefined,
    readonly eosIds: number[],
  ) {
    this.vocabSize = worker.call('vocabSize');
    const marked = worker.call('idToToken', worker.call('encode', 'a', false)[0] ?? 0);
    if (marked !== null && /^[\u2581\u0120]/.test(marked)) this.#lead = worker.call('encode', LEAD, false);
  }

  get hasChatTemplate(): boolean {
    return this.template !== undefined;
  }

  encode(text: string, options: { special?: boolean; continuation?: boolean } = {}): number[] {
    if (options.special) return this.worker.call('encode', text, true);
    return this.encodeMany([text], options)[0] as number[];
  }

  encodeMany(texts: readonly string[], { continuation = false } = {}): number[][] {
    const lead = continuation ? this.#lead : undefined;
    if (!lead) return this.#plain(texts);
    const led = this.#plain(texts.map((text) => LEAD + text));
    // A tokenizer that joins the lead with what follows gives no ids to cut off.
    const joined = led.map((ids) => lead.some((id, i) => id !== ids[i]));
    const unled = this.#plain(texts.filter((_, t) => joined[t]));
    return led.map((ids, t) => (joined[t] ? (unled.shift() as number[]) : ids.slice(lead.length)));
  }

  #plain(texts: readonly string[]): number[][] {
    if (texts.every((text) => text === '')) return texts.map(() => []);
    return this.worker.call('encodeMany', texts);
  }

  decode(ids: ArrayLike<number>, options: { keepSpecial?: boolean } = {}): string {
    return ids.length === 0 ? '' : this.worker.call('decode', Array.from(ids), !options.keepSpecial);
  }

  renderChat(messages: ChatMessage[], options: { addGenerationPrompt?: boolean } = {}): string {
    if (!this.template)
      throw new StepwardError('INVALID_ARGUMENT', 'expected a model with a chat template, got one without');
    return this.template(messages, options.addGenerationPrompt ?? false);
  }

  vocab(): Record<string, number> {
    return this.worker.call('vocab');
  }

  tokenBytes(vocabSize: number): { bytes: Uint8Array; offsets: Int32Array } {
    return bytesOfTokens(this.tokenizer, this.vocab(), vocabSize);
  }
}

async function readJson<T>(path: string): Promise<T | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new StepwardError('IO_ERROR', `${path}: ${(error as Error).message}`, { cause: error });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new StepwardError('CHECKPOINT_INVALID', `${path}: expected JSON, got ${(error as Error).message}`, {
      cause: error,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new StepwardError('CHECKPOINT_INVALID', `${path}: expected a JSON object`);
  }
  return value as T;
}

/** A special token stands as text or as an object with `content`. */
function specialTokens(config: TokenizerConfig): SpecialTokens {
  const tokens: SpecialTokens = {};
  for (const [name, value] of Object.entries(config)) {
    if (!/^(bos|eos|pad|unk|sep|cls|mask)_token$/.test(name)) continue;
    const content = typeof value === 'string' ? value : (value as { content?: unknown } | null)?.content;
    if (typeof content === 'string') tokens[name] = content;
  }
  return tokens;
}

/** eos_token_id of generation_config.json, else of config.json: what transformers' generate stops at. */
async function configuredEosIds(directory: string): Promise<number[] | undefined> {
  for (const file of ['generation_config.json', 'config.json']) {
    const id = (await readJson<{ eos_token_id?: unknown }>(join(directory, file)))?.eos_token_id;
    const ids = [id].flat().filter((value) => Number.isInteger(value)) as number[];
    if (ids.length > 0) return ids;
  }
  return undefined;
}

/** The tokenizer's own EOS stands first where the configured ids hold it: it is the one that training appends. */
function orderEosIds(configured: number[], own: number | null | undefined): number[] {
  if (own === null || own === undefined) return configured;
  if (configured.length === 0) return [own];
  return configured.includes(own) ? [own, ...configured.filter((id) => id !== own)] : configured;
}
