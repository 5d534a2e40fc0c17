// The addon in worker threads, each with an environment of its own. In child processes, because what goes wrong here is a
// crash: a worker is torn down while its engine thread computes, or takes the addon's code out of memory with it.

import { describe, expect, it } from 'vitest';
import { runScript } from '../helpers/child.js';

// A Worker from the body of an async function, with the prelude of the helper and `parentPort`.
const workers = `
  const { Worker } = require('node:worker_threads');
  const work = (body) => new Worker(
    prelude + "const { parentPort } = require('node:worker_threads'); (async () => {" + body + "})();", { eval: true });
  const message = (worker) => new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  const ended = (worker) => new Promise((resolve) => worker.once('exit', resolve));
  const score = "const addon = open(), token = addon.createCancelToken(), engine = await load(addon, token);" +
    "const { logprobs } = await addon.score(engine, forest, Uint8Array.of(1, 1), token);" +
    "parentPort.postMessage(Array.from(logprobs));";
  const generate = "const addon = open(), token = addon.createCancelToken(), engine = await load(addon, token, large);" +
    "addon.generate(engine, endless, token, () => {}); parentPort.postMessage('running');";
`;

describe('worker threads', () => {
  it('load and run; without a disposal they still end by themselves', async () => {
    const result = await runScript(`
      ${workers}
      const worker = work(score);
      const done = ended(worker);
      console.log((await message(worker)).length, await done);
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: '4 0\n', stderr: '' });
  });

  it('compute what the main thread computes, at the same time', async () => {
    const result = await runScript(`
      ${workers}
      const [a, b] = [work(score), work(score)];
      const theirs = Promise.all([message(a), message(b)]);
      const addon = open(), token = addon.createCancelToken(), engine = await load(addon, token);
      const { logprobs } = await addon.score(engine, forest, Uint8Array.of(1, 1), token);
      const own = JSON.stringify(Array.from(logprobs));
      for (const values of await theirs) console.log(JSON.stringify(values) === own);
      console.log(addon.debugLiveHandles());
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: 'true\ntrue\n2\n', stderr: '' });
  });

  it('can be terminated mid-job, again and again, in a process that loads the addon only there', async () => {
    const result = await runScript(`
      ${workers}
      for (let i = 0; i < 4; i++) {
        const worker = work(generate);
        await message(worker);
        await sleep(30 * i);
        console.log(await worker.terminate());
      }
      console.log((await message(work(score))).length);
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: '1\n1\n1\n1\n4\n', stderr: '' });
  });

  it('can be terminated while the main thread has work of its own, which goes on', async () => {
    const result = await runScript(`
      ${workers}
      const addon = open(), token = addon.createCancelToken(), engine = await load(addon, token);
      const worker = work(generate);
      await message(worker);
      const own = addon.generate(engine, { ...endless, maxNewTokens: 100 }, token);
      await worker.terminate();
      console.log((await own).finish.length);
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: '4\n', stderr: '' });
  });

  it('can call process.exit mid-job', async () => {
    const result = await runScript(`
      ${workers}
      const worker = work(generate + "setTimeout(() => process.exit(5), 50);");
      console.log(await ended(worker));
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: '5\n', stderr: '' });
  });

  it('mid-job do not keep the main thread from process.exit', async () => {
    const result = await runScript(`
      ${workers}
      await Promise.all([message(work(generate)), message(work(generate))]);
      process.exit(7);
    `);
    expect(result).toEqual({ code: 7, signal: null, stdout: '', stderr: '' });
  });
});
