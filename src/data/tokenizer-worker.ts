// Hugging Face's tokenizer library only has promises, and prompts are built by plain functions. So the tokenizer lives
// in a worker thread and the caller waits for each answer. The worker holds no event loop open.

import { once } from 'node:events';
import { createRequire } from 'node:module';
import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { StepwardError } from '../errors.js';

interface Calls {
  encode(text: string, special: boolean): number[];
  /** Without special tokens. */
  encodeMany(texts: readonly string[]): number[][];
  decode(ids: number[], skipSpecial: boolean): string;
  tokenToId(token: string): number | null;
  idToToken(id: number): string | null;
  vocab(): Record<string, number>;
  vocabSize(): number;
}

export interface TokenizerWorker {
  call<K extends keyof Calls>(name: K, ...args: Parameters<Calls[K]>): ReturnType<Calls[K]>;
}

// Kept as text, so that it runs the same from src/ and dist/. The flag is set after the answer is in the port.
const SOURCE = `
const { parentPort, workerData: { library, path, port, flag } } = require('node:worker_threads');
const answer = (message) => { port.postMessage(message); Atomics.store(flag, 0, 1); Atomics.notify(flag, 0); };
(async () => {
  const { Tokenizer } = require(library);
  const tokenizer = Tokenizer.fromFile(path);
  tokenizer.disableTruncation();
  tokenizer.disablePadding();
  const calls = {
    encode: async (text, special) => (await tokenizer.encode(text, null, { addSpecialTokens: special })).getIds(),
    encodeMany: async (texts) =>
      (await tokenizer.encodeBatch(texts, { addSpecialTokens: false })).map((encoding) => encoding.getIds()),
    decode: (ids, skipSpecial) => tokenizer.decode(ids, skipSpecial),
    tokenToId: (token) => tokenizer.tokenToId(token),
    idToToken: (id) => tokenizer.idToToken(id),
    vocab: () => tokenizer.getVocab(true),
    vocabSize: () => Object.values(tokenizer.getVocab(true)).reduce((a, b) => Math.max(a, b + 1), 0),
  };
  port.on('message', async ({ name, args }) => {
    try {
      answer({ value: await calls[name](...args) });
    } catch (error) {
      answer({ error: String(error && error.message || error) });
    }
  });
  parentPort.postMessage(undefined);
})().catch((error) => parentPort.postMessage(String(error && error.message || error)));
`;

/** Loads a tokenizer.json. Throws CHECKPOINT_INVALID where the library refuses it. */
export async function startTokenizerWorker(path: string): Promise<TokenizerWorker> {
  const { port1: port, port2 } = new MessageChannel();
  const flag = new Int32Array(new SharedArrayBuffer(4));
  const library = createRequire(import.meta.url).resolve('tokenizers');
  const worker = new Worker(SOURCE, {
    eval: true,
    workerData: { library, path, port: port2, flag },
    transferList: [port2],
    execArgv: [],
  });
  const [failure] = (await once(worker, 'message')) as [string | undefined];
  if (failure !== undefined) throw new StepwardError('CHECKPOINT_INVALID', `${path}: ${failure}`);
  worker.unref();
  port.unref();
  return {
    call(name, ...args) {
      port.postMessage({ name, args });
      // Again where the last answer's notice comes late, when its flag was already seen and cleared.
      while (Atomics.load(flag, 0) === 0) Atomics.wait(flag, 0, 0);
      Atomics.store(flag, 0, 0);
      const answer = receiveMessageOnPort(port)?.message as { value?: unknown; error?: string } | undefined;
      if (!answer || answer.error !== undefined) {
        throw new StepwardError('INTERNAL', `${path}: ${name}: ${answer?.error ?? 'the tokenizer gave no answer'}`);
      }
      return answer.value as ReturnType<Calls[typeof name]>;
    },
  };
}
