// The built library as users load it: by import, by require where Node can, and in a worker thread.

import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { runScript } from '../helpers/child.js';
import { readPage, repository } from '../helpers/markdown.js';

const library = JSON.stringify(fileURLToPath(new URL('../../dist/index.js', import.meta.url)));

// An engine over the tiny model, through the public class; `stepward` is the module.
const use = `
  const { mkdtempSync, writeFileSync } = require('node:fs');
  const directory = mkdtempSync(scratch + '/model-');
  writeFileSync(directory + '/config.json', JSON.stringify(config));
  const engine = await stepward.Engine.load({ directory, device: 'cpu', initSeed: 1 });
  const { logprobs } = await engine.score(forest, Uint8Array.of(1, 1));
  await engine.dispose();
`;

describe('the built library', () => {
  it('loads by import and loads no native code until it is used', async () => {
    const result = await runScript(`
      const stepward = await import(${library});
      const { readFileSync } = require('node:fs');
      console.log(readFileSync('/proc/self/maps', 'utf8').includes('libtorch'));
      ${use}
      console.log(readFileSync('/proc/self/maps', 'utf8').includes('libtorch'), logprobs.length);
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: 'false\ntrue 4\n', stderr: '' });
  });

  it.skipIf(!('require_module' in process.features))('loads by require', async () => {
    const result = await runScript(`const stepward = require(${library}); ${use} console.log(logprobs.length);`);
    expect(result).toMatchObject({ code: 0, signal: null, stdout: '4\n' });
  });

  it('trains with both losses that docs/losses.md shows', async () => {
    // Without imports and types, as a script.
    const [formula, vectors] = [...readPage('docs/losses.md').matchAll(/```ts\n(.*?)```/gs)].map(([, code]) =>
      (code as string).replace(/^import .*\n/gm, '').replace(/: PairLoss\b|(?<=\])!/g, ''),
    ) as [string, string];
    const again = `${vectors}await trainPreference(engine, trees, { loss: squared });\nawait engine.dispose();`;
    const result = await runScript(`
      process.chdir(${JSON.stringify(fileURLToPath(repository))});
      const { Engine, pairwise, trainPreference } = await import(${library});
      ${formula.replace('await engine.dispose();', again)}
      console.log('trained');
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: 'trained\n', stderr: '' });
  });

  it('works in a worker thread', async () => {
    const result = await runScript(`
      const { Worker } = require('node:worker_threads');
      const body = prelude + "(async () => { const stepward = await import(" + JSON.stringify(${library}) + ");" +
        ${JSON.stringify(use)} + "require('node:worker_threads').parentPort.postMessage(logprobs.length); })()";
      const worker = new Worker(body, { eval: true });
      worker.on('message', (length) => console.log(length)).on('exit', (code) => console.log('code', code));
    `);
    expect(result).toEqual({ code: 0, signal: null, stdout: '4\ncode 0\n', stderr: '' });
  });
});
