// Scripts in a process of their own, to see how a process that holds the addon ends.

import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addonDirectory } from '../../src/native/load.js';
import { ENDLESS, tinyConfig } from './tiny-model.js';

export interface ChildResult {
  code: number | null;
  /** Set when the process was killed, which a crash in native code is. */
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

// What every script may use: the raw addon, a forest, a request that takes minutes, and a way to load either model.
const PRELUDE = `
const addonFile = ${JSON.stringify(join(addonDirectory, 'stepward.node'))};
const forest = { tokens: Int32Array.of(2, 3, 4, 5), offsets: Int32Array.of(0, 2, 4), parents: Int32Array.of(-1, 0) };
const endless = {
  forest, nodes: Int32Array.of(1), samples: 4, seed: 0n, treeKeys: BigUint64Array.of(0n), steps: Int32Array.of(0),
  firstCandidate: 0, temperature: 1, topP: 1, topK: 0, minP: 0, minNewTokens: 0, maxNewTokens: 900000,
  eosIds: new Int32Array(0), stop: [],
};
const config = ${JSON.stringify(tinyConfig())};
function open() {
  process.env.OMP_WAIT_POLICY = 'passive';
  return require(addonFile);
}
function load(addon, token, changes = {}) {
  const { mkdtempSync, writeFileSync } = require('node:fs');
  const directory = mkdtempSync(scratch + '/model-');
  writeFileSync(directory + '/config.json', JSON.stringify({ ...config, ...changes }));
  return addon.loadModel({ directory, device: 'cpu', dtype: 'float32', initSeed: 1n, kvBudgetBytes: 2 ** 31, sharePrefixes: true, bf16Panels: false }, token);
}
const large = ${JSON.stringify(ENDLESS)};
const adamw = { optimizer: 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 0 };
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
`;

/**
 * Runs the body of an async function after the prelude, which is also the string `prelude` inside it. `scratch` is a
 * folder that goes with the process.
 */
export function runScript(body: string, timeout = 50_000): Promise<ChildResult> {
  const scratch = mkdtempSync(join(tmpdir(), 'stepward-child-'));
  const prelude = `const scratch = ${JSON.stringify(scratch)};\n${PRELUDE}`;
  const source = `${prelude}\nconst prelude = ${JSON.stringify(prelude)};\n(async () => {\n${body}\n})();`;
  return new Promise((resolve) => {
    execFile(process.execPath, ['-e', source], { timeout, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      rmSync(scratch, { recursive: true, force: true });
      const code = error ? (typeof error.code === 'number' ? error.code : null) : 0;
      resolve({ code, signal: error?.signal ?? null, stdout, stderr });
    });
  });
}
