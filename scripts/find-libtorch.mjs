// Finds libtorch: LIBTORCH, the active Python's torch, the one this tree was built with, the private copy in .libtorch/.
// Checks its version and loads it once. `node scripts/find-libtorch.mjs` prints the folder.

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { capture, isMain, main, root, SetupError } from './lib/machine.mjs';
import { findPython } from './lib/tools.mjs';

export const MIN_VERSION = [2, 11];
export const BELOW_VERSION = [2, 15];
/** The version the set-up fetches when there is none. */
export const FETCHED_VERSION = '2.13.0';
export const privateCopy = path.join(root, '.libtorch/torch');

export const REMEDIES = [
  `with Python and pip: npm run setup:libtorch (fetches torch ${FETCHED_VERSION} into .libtorch/)`,
  `with a Python environment of your own: pip install torch==${FETCHED_VERSION}, activate it, npm run setup`,
  'with a libtorch folder from pytorch.org: LIBTORCH=/path/to/libtorch npm run setup',
];

/**
 * { root, version, cuda, source } of the first libtorch that can be used, or undefined with the reasons in `rejected`.
 * A LIBTORCH that cannot be used is an error: it was asked for by name.
 */
export function findLibtorch(rejected = []) {
  if (process.env.LIBTORCH) {
    const { found, reason } = inspect(process.env.LIBTORCH, 'LIBTORCH');
    if (found) return found;
    throw new SetupError(`LIBTORCH=${process.env.LIBTORCH} cannot be used: ${reason}. Any one of:`, [
      'unset LIBTORCH and run npm run setup',
      ...REMEDIES.slice(1),
    ]);
  }
  const candidates = [
    ["the active Python's torch", pythonTorch()],
    ['the copy this tree was built with', linked()],
    ['the private copy', existsSync(privateCopy) ? privateCopy : undefined],
  ];
  for (const [source, directory] of candidates) {
    if (!directory) continue;
    const { found, reason } = inspect(directory, source);
    if (found) return found;
    rejected.push(`${source}, ${directory}: ${reason}`);
  }
  return undefined;
}

/** Looks at one folder: { found } or { reason }. */
export function inspect(directory, source) {
  if (!existsSync(directory)) return { reason: 'there is no such folder' };
  const torch = realpathSync(directory);
  const library = path.join(torch, 'lib/libtorch_cpu.so');
  if (!existsSync(library))
    return { reason: 'it has no lib/libtorch_cpu.so (expected a torch package or libtorch folder)' };
  const version = readVersion(torch);
  if (!version) return { reason: 'it has no include/torch/headeronly/version.h' };
  const [major, minor] = version.split('.').map(Number);
  const number = major * 1000 + minor;
  if (number < MIN_VERSION[0] * 1000 + MIN_VERSION[1] || number >= BELOW_VERSION[0] * 1000 + BELOW_VERSION[1]) {
    return {
      reason: `it is version ${version}; expected ${MIN_VERSION.join('.')} up to, not including, ${BELOW_VERSION.join('.')}`,
    };
  }
  return { found: { root: torch, version, cuda: existsSync(path.join(torch, 'lib/libtorch_cuda.so')), source } };
}

function readVersion(torch) {
  for (const header of ['include/torch/headeronly/version.h', 'include/torch/csrc/api/include/torch/version.h']) {
    const file = path.join(torch, header);
    if (!existsSync(file)) continue;
    const numbers = [...readFileSync(file, 'utf8').matchAll(/#define TORCH_VERSION_(?:MAJOR|MINOR|PATCH) +(\d+)/g)];
    if (numbers.length === 3) return numbers.map((match) => match[1]).join('.');
  }
  return undefined;
}

// find_spec does not import torch, which would take seconds.
function pythonTorch() {
  const python = findPython();
  const code =
    "import importlib.util as u; s = u.find_spec('torch'); print((s.submodule_search_locations or [''])[0] if s else '')";
  return (python && capture(python, ['-c', code])) || undefined;
}

function linked() {
  const link = path.join(root, 'build/Release/libtorch');
  return existsSync(link) ? realpathSync(link) : undefined;
}

/** Loads libtorch in a child process; undefined when that works, else the loader's message. */
export function loadError(torch) {
  const code = `
    try {
      process.dlopen({ exports: {} }, process.argv[1], require('os').constants.dlopen.RTLD_NOW);
    } catch (error) {
      // It is no addon, so Node complains after the load: that is success here.
      if (!/did not self-register/.test(error.message)) { console.error(error.message); process.exit(1); }
    }`;
  const result = spawnSync(process.execPath, ['-e', code, path.join(torch, 'lib/libtorch.so')], { encoding: 'utf8' });
  if (result.status === 0) return undefined;
  return result.stderr.trim() || `the process ended with ${result.signal ?? result.status}`;
}

/** Throws unless libtorch can be loaded on this machine. */
export function proveLoadable({ root: torch, source }) {
  const error = loadError(torch);
  if (error) throw new SetupError(`libtorch in ${torch} (${source}) cannot be loaded: ${error}. Any one of:`, REMEDIES);
}

if (isMain(import.meta.url)) {
  await main(() => {
    const rejected = [];
    const found = findLibtorch(rejected);
    if (!found) throw new SetupError(['no libtorch', ...rejected, 'Any one of:'].join('\n  '), REMEDIES);
    proveLoadable(found);
    process.stdout.write(`${found.root}\n`);
  });
}
