// Brings everything up to date: libtorch, the native addon, dist/. `npm start` and `npm test` begin with it.
// A step whose inputs have not changed is skipped. Options: --tests builds the test programs too, --cuda on|off, --only dist.

import { chmodSync, existsSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { buildNative } from './build-native.mjs';
import { withLock } from './lib/lock.mjs';
import { isMain, main, packageVersion, root, run, SetupError, say } from './lib/machine.mjs';
import { hashInputs, readStamps, writeStamps } from './lib/stamps.mjs';

const dist = path.join(root, 'dist');

export function setup({ tests = false, cuda, only } = {}) {
  return withLock(async () => {
    checkNode();
    checkPackages();
    if (only !== 'dist') await buildNative({ tests, cuda });
    await buildDist();
  });
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major * 1000 + minor < 20_017) {
    throw new SetupError(`Node.js ${process.versions.node} is too old (expected 20.17 or newer). Any one of:`, [
      'nvm: nvm install 22',
      'https://nodejs.org/en/download',
    ]);
  }
}

function checkPackages() {
  if (!existsSync(path.join(root, 'node_modules')) && !root.includes(`${path.sep}node_modules${path.sep}`)) {
    throw new SetupError(`the packages of ${path.join(root, 'package.json')} are not installed. To mend it:`, [
      'npm ci',
    ]);
  }
}

async function buildDist() {
  // An installed package carries dist/ and no sources.
  if (!existsSync(path.join(root, 'src')) && existsSync(path.join(dist, 'cli.js'))) return;
  const inputs = hashInputs(['src', 'tsconfig.json', 'tsconfig.build.json'], { version: packageVersion });
  if (readStamps().dist === inputs && existsSync(path.join(dist, 'cli.js'))) return;
  say('compiling src/ into dist/');
  // Compiled aside and swapped in whole, so that a file deleted from src/ does not live on in dist/.
  const fresh = path.join(root, 'dist.new');
  rmSync(fresh, { recursive: true, force: true });
  const status = await run(process.execPath, [typescriptCompiler(), '-p', 'tsconfig.build.json', '--outDir', fresh]);
  if (status !== 0) throw new SetupError('src/ does not compile; the first error above says why');
  // npx links to the command once and never again looks whether it may be executed.
  chmodSync(path.join(fresh, 'cli.js'), 0o755);
  rmSync(dist, { recursive: true, force: true });
  renameSync(fresh, dist);
  writeStamps({ dist: inputs });
}

function typescriptCompiler() {
  const require = createRequire(import.meta.url);
  try {
    return path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc');
  } catch {
    throw new SetupError('the TypeScript compiler is not installed. To mend it:', ['npm ci (without --omit=dev)']);
  }
}

if (isMain(import.meta.url)) {
  await main(() => {
    const { values } = parseArgs({
      options: { tests: { type: 'boolean' }, cuda: { type: 'string' }, only: { type: 'string' } },
    });
    return setup(values);
  });
}
