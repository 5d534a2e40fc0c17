// Builds native/ through cmake-js into build/Release/stepward.node (tree: build/native). `npx node-gyp rebuild` runs this too.
// Options: --tests, --bench build those programs as well; --cuda on|off (default: when libtorch has CUDA and nvcc is there).

import { existsSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { findLibtorch, proveLoadable } from './find-libtorch.mjs';
import { withLock } from './lib/lock.mjs';
import { isMain, main, packageVersion, root, run, SetupError, say } from './lib/machine.mjs';
import { hashInputs, readStamps, writeStamps } from './lib/stamps.mjs';
import { findCMake, findCompiler, findGenerator } from './lib/tools.mjs';
import { fetchLibtorch } from './setup-libtorch.mjs';

const require = createRequire(import.meta.url);
export const addonFile = path.join(root, 'build/Release/stepward.node');
const tree = path.join(root, 'build/native');

const ADDON_INPUTS = [
  'CMakeLists.txt',
  'package.json',
  'cmake',
  'include',
  'third_party',
  'kernels',
  'core',
  'addon',
].map((name) => `native/${name}`);

/** { addon, tests } hashes of all that goes into the two; equal hashes mean that nothing has to be built. */
function inputHashes(torch, cuda) {
  const values = {
    torch: [torch.root, torch.version, torch.cuda],
    cuda,
    version: packageVersion,
    nodeAddonApi: require('node-addon-api/package.json').version,
    compiler: process.env.CXX ?? '',
    root,
  };
  const addon = hashInputs(ADDON_INPUTS, values);
  return { addon, tests: hashInputs(['native/test', 'test/goldens'], { addon }) };
}

// A choice that was made once holds until another is made: `npm start` must not undo `npm run setup -- --cuda off`.
function cudaChoice(option, stamped) {
  const choice = option ?? process.env.STEPWARD_CUDA ?? stamped ?? 'auto';
  const value = { on: 'ON', off: 'OFF', auto: 'AUTO' }[choice.toLowerCase()];
  if (!value) throw new SetupError(`STEPWARD_CUDA or --cuda is '${choice}'; expected on, off or auto`);
  return value;
}

/** Brings the addon, and the test programs when asked for, up to date. Returns whether anything was built. */
export async function buildNative({ tests = false, bench = false, cuda: cudaOption, force = false } = {}) {
  const stamps = readStamps();
  const cuda = cudaChoice(cudaOption, stamps.cuda);
  const rejected = [];
  let torch = findLibtorch(rejected);
  if (torch && !force && !bench && existsSync(addonFile)) {
    const hashes = inputHashes(torch, cuda);
    if (stamps.addon === hashes.addon && (!tests || stamps.tests === hashes.tests)) return false;
  }

  // The tools first: nobody should wait for a large download to hear that a compiler is missing.
  const compiler = findCompiler();
  const cmake = await findCMake();
  const generator = await findGenerator();
  for (const reason of rejected) say(`not used: ${reason}`);
  torch ??= await fetchLibtorch();
  if (stamps.torch !== torch.root) proveLoadable(torch);

  say(`building the native addon with libtorch ${torch.version} (${torch.source}: ${torch.root})`);
  const started = performance.now();
  // Before the build, so that a file saved while it runs is seen as changed afterwards.
  const hashes = inputHashes(torch, cuda);
  await runCMake({ torch, cuda, compiler, cmake, generator, tests, bench });
  writeStamps({ torch: torch.root, cuda, addon: hashes.addon, ...(tests && { tests: hashes.tests }) });
  say(`native build done in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  return true;
}

async function runCMake({ torch, cuda, compiler, cmake, generator, tests, bench }) {
  // stepward_bench takes the addon along: the file this build leaves is always of these sources.
  const target = tests ? [] : ['--target', bench ? 'stepward_bench' : 'stepward_addon'];
  const definitions = {
    STEPWARD_TORCH: torch.root,
    STEPWARD_VERSION: packageVersion,
    STEPWARD_CUDA: cuda,
    // Left as it was otherwise: turning it off would take the programs that an earlier run built away from ctest.
    ...(tests && { STEPWARD_TESTS: 'ON' }),
    STEPWARD_BENCH: bench ? 'ON' : 'OFF',
    CMAKE_MAKE_PROGRAM: generator.program,
  };
  const cmakeJs = (command) =>
    run(
      process.execPath,
      [
        path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin/cmake-js'),
        command,
        ...['--directory', path.join(root, 'native'), '--out', tree, '--config', 'Release'],
        ...['--cmake-path', cmake, '--generator', generator.generator, '--cxx', compiler.cxx],
        ...(compiler.cc ? ['--cc', compiler.cc] : []),
        ...target,
        ...['--parallel', String(jobs()), '--log-level', 'warn'],
        ...Object.entries(definitions).map(([name, value]) => `--CD${name}=${value}`),
      ],
      { env: buildEnvironment() },
    );

  let status = await cmakeJs('configure');
  if (status !== 0 && existsSync(path.join(tree, 'CMakeCache.txt'))) {
    // A cache of another generator, compiler or place cannot be changed, only thrown away.
    say('configuring again from an empty build tree');
    rmSync(tree, { recursive: true, force: true });
    status = await cmakeJs('configure');
  }
  if (status === 0) status = await cmakeJs('build');
  if (status !== 0) throw new SetupError('the native build failed; the first error above says why');
  if (!existsSync(addonFile)) throw new SetupError(`the native build did not leave ${addonFile}`);
}

// One compiler process on an ATen file takes up to 1.5 GB.
function jobs() {
  return Math.max(1, Math.min(os.availableParallelism(), Math.floor(os.totalmem() / 1.5e9)));
}

// node-gyp runs this script under make, whose job server flags would confuse an inner make.
function buildEnvironment() {
  const { MAKEFLAGS, MFLAGS, MAKELEVEL, ...env } = process.env;
  return env;
}

if (isMain(import.meta.url)) {
  await main(async () => {
    const { values } = parseArgs({
      options: {
        tests: { type: 'boolean' },
        bench: { type: 'boolean' },
        cuda: { type: 'string' },
        force: { type: 'boolean' },
      },
    });
    await withLock(async () => {
      if (!(await buildNative(values))) say('the native build is up to date');
    });
  });
}
