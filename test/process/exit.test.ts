// Ways a process can end while the addon works. Only a child process shows them: a crash at exit comes after every hook
// a test could check, as libtorch's globals go while an engine thread still uses them.

import { describe, expect, it } from 'vitest';
import { runScript } from '../helpers/child.js';

const generating = `
  const addon = open(), token = addon.createCancelToken(), engine = await load(addon, token, large);
  const work = addon.generate(engine, endless, token);
  await sleep(150);
`;

describe('a process with work in flight', () => {
  it('ends at process.exit, with its code', async () => {
    expect(await runScript(`${generating} process.exit(7);`)).toEqual({
      code: 7,
      signal: null,
      stdout: '',
      stderr: '',
    });
  });

  it('ends at process.exit from several engines at once, with queued jobs behind', async () => {
    const result = await runScript(`
      const addon = open(), token = addon.createCancelToken();
      for (let i = 0; i < 3; i++) {
        const engine = await load(addon, token, large);
        for (let j = 0; j < 3; j++) addon.generate(engine, endless, token, () => {});
      }
      await sleep(150);
      process.exit(7);
    `);
    expect(result).toEqual({ code: 7, signal: null, stdout: '', stderr: '' });
  });

  it('ends at process.exit while a model is loading', async () => {
    const result = await runScript(`
      const addon = open();
      load(addon, addon.createCancelToken(), { ...large, num_hidden_layers: 12 });
      await sleep(5);
      process.exit(7);
    `);
    expect(result).toEqual({ code: 7, signal: null, stdout: '', stderr: '' });
  });

  it('ends at process.exit while training', async () => {
    const result = await runScript(`
      const addon = open(), token = addon.createCancelToken(), engine = await load(addon, token, large);
      const trainer = await addon.createTrainer(engine, adamw);
      const batch = {
        forest: { tokens: new Int32Array(1500).fill(3), offsets: Int32Array.of(0, 1500), parents: Int32Array.of(-1) },
        segmentWeight: Float32Array.of(1),
        tokenNorm: 1499,
      };
      await addon.accumulateSft(trainer, batch, token);
      for (let i = 0; i < 50; i++) addon.accumulateSft(trainer, batch, token);
      await sleep(20);
      process.exit(7);
    `);
    expect(result).toEqual({ code: 7, signal: null, stdout: '', stderr: '' });
  });

  it('finishes a save that is under way before process.exit', async () => {
    const result = await runScript(`
      const { existsSync, mkdtempSync, readdirSync } = require('node:fs');
      const addon = open(), token = addon.createCancelToken();
      const engine = await load(addon, token, { ...large, num_hidden_layers: 12 });
      const folder = mkdtempSync(scratch + '/saved-');
      process.on('exit', () =>
        console.log(existsSync(folder + '/model.safetensors'), existsSync(folder + '/config.json')));
      addon.saveModel(engine, folder);
      while (readdirSync(folder).length === 0) await sleep(1);
      process.exit(7);
    `);
    expect(result).toEqual({ code: 7, signal: null, stdout: 'true true\n', stderr: '' });
  });

  it('ends with code 1 on an uncaught exception', async () => {
    const result = await runScript(`${generating} setImmediate(() => { throw new Error('on purpose'); });`);
    expect(result).toMatchObject({ code: 1, signal: null, stderr: expect.stringContaining('on purpose') });
  });

  it('ends with code 1 on an unhandled rejection of a job', async () => {
    const result = await runScript(`
      ${generating}
      const other = await load(addon, addon.createCancelToken());
      addon.score(other, forest, Uint8Array.of(1), token);
    `);
    expect(result).toMatchObject({ code: 1, signal: null, stderr: expect.stringContaining('INVALID_ARGUMENT') });
  });

  it('ends when an exit listener calls the addon again', async () => {
    const result = await runScript(`
      ${generating}
      process.on('exit', () => {
        try {
          addon.modelInfo(engine);
        } catch (error) {
          console.log(error.code);
        }
        addon.generate(engine, endless, token);
        addon.dispose(engine);
        addon.loadModel({ directory: '', device: 'cpu', dtype: 'float32', kvBudgetBytes: 1 }, token);
      });
      process.exit(7);
    `);
    expect(result).toEqual({ code: 7, signal: null, stdout: 'HANDLE_INVALID\n', stderr: '' });
  });

  it('stays alive until a pending job is done', async () => {
    const result = await runScript(`
      const addon = open(), token = addon.createCancelToken();
      load(addon, token)
        .then((engine) => addon.score(engine, forest, Uint8Array.of(1, 1), token))
        .then((result) => console.log('scored', result.logprobs.length));
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: 'scored 4\n', stderr: '' });
  });

  it('ends by itself with idle engines and trainers that nobody disposed of', async () => {
    const result = await runScript(`
      const addon = open(), token = addon.createCancelToken(), engine = await load(addon, token);
      await addon.createTrainer(engine, adamw);
      await load(addon, token);
      console.log('live', addon.debugLiveHandles());
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: 'live 4\n', stderr: '' });
  });

  it('an exception thrown by a raw onProgress is an uncaught one, and loses no other result', async () => {
    const result = await runScript(`
      const addon = open(), token = addon.createCancelToken(), engine = await load(addon, token);
      process.on('uncaughtException', (error) => console.log(error.message));
      const rows = await addon.generate(engine, { ...endless, maxNewTokens: 3 }, token, () => { throw new Error('thrown'); });
      console.log('rows', rows.finish.length);
    `);
    expect(result.stdout).toMatch(/^(thrown\n)+rows 4\n$/);
    expect(result).toMatchObject({ code: 0, signal: null, stderr: '' });
  });
});
