// Grades answers. What text and numbers cannot decide is compared in a worker thread with a time limit; an answer that
// runs into the limit is wrong.

import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { gradePlain } from './grade.js';

const TIME_LIMIT_MS = 2000;

// Run from its sources (under vitest) there is no compiled worker beside this file: take the one in dist/.
const WORKER = [
  new URL('./grade-worker.js', import.meta.url),
  new URL('../../dist/eval/grade-worker.js', import.meta.url),
];

export class Grader {
  #worker: Worker | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #settle: ((outcome: boolean | Error) => void) | undefined;
  readonly #source: URL;
  readonly #limit: number;

  /** `worker`: another worker file, for tests of the time limit. */
  constructor(options: { timeLimitMs?: number; worker?: URL } = {}) {
    this.#limit = options.timeLimitMs ?? TIME_LIMIT_MS;
    this.#source = options.worker ?? WORKER.find((url) => existsSync(fileURLToPath(url))) ?? (WORKER[0] as URL);
  }

  /** Whether `predicted` says what `gold` says. A missing prediction is wrong. */
  async grade(predicted: string | null, gold: string): Promise<boolean> {
    if (predicted === null) return false;
    const plain = gradePlain(predicted, gold);
    if (plain !== undefined) return plain;
    const result = this.#queue.then(() => this.#compare(predicted, gold));
    this.#queue = result.catch(() => undefined);
    return result;
  }

  async close(): Promise<void> {
    await this.#queue;
    await this.#stop();
  }

  async #compare(predicted: string, gold: string): Promise<boolean> {
    const worker = await this.#start();
    return new Promise<boolean>((resolve, reject) => {
      const timer = setTimeout(() => void this.#stop().then(() => resolve(false)), this.#limit);
      this.#settle = (outcome) => {
        clearTimeout(timer);
        if (outcome instanceof Error) void this.#stop().then(() => reject(outcome));
        else resolve(outcome);
      };
      worker.postMessage({ predicted, gold });
    });
  }

  // Starting up is not part of the time limit: on a busy machine that alone may take long.
  async #start(): Promise<Worker> {
    if (this.#worker) return this.#worker;
    const worker = new Worker(this.#source, { execArgv: [] });
    await once(worker, 'online');
    worker.unref();
    worker.on('message', ({ same }: { same: boolean }) => this.#settle?.(same));
    worker.on('error', (error) => this.#settle?.(error));
    this.#worker = worker;
    return worker;
  }

  async #stop(): Promise<void> {
    const worker = this.#worker;
    this.#worker = undefined;
    this.#settle = undefined;
    await worker?.terminate();
  }
}
