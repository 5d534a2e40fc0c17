// Loads the native addon, once per thread, and turns a failure into one error that lists the remedies.
// Says nothing about engines or handles; engine.ts does.

import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { StepwardError } from '../errors.js';
import type { NativeAddon } from './contract.js';

const require = createRequire(import.meta.url);
const ADDON = 'stepward.node';

/** The folder of Stepward's package.json: dist/native and src/native lie equally deep in it. */
export const packageRoot = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

export const packageVersion = (
  JSON.parse(readFileSync(path.join(packageRoot, 'package.json'), 'utf8')) as { version: string }
).version;

/** Where the build writes the addon; `libtorch` beside it is a link to the torch package folder it was built with. */
export const addonDirectory = path.join(packageRoot, 'build/Release');

let addon: NativeAddon | undefined;
let failure: StepwardError | undefined;

/** The addon. Throws NATIVE_LOAD with the cause and the ways to mend it; a second call throws the same error. */
export function loadAddon(): NativeAddon {
  if (addon) return addon;
  if (failure) throw failure;
  try {
    addon = open();
    return addon;
  } catch (cause) {
    failure = cause instanceof StepwardError ? cause : describe(cause);
    throw failure;
  }
}

function open(): NativeAddon {
  // Threads that spin while they wait take the cores from the rest of the process. The OpenMP runtime reads this once, when
  // the addon brings it in, so it has to be set before.
  process.env.OMP_WAIT_POLICY ??= 'passive';
  const bindings = require('bindings') as typeof import('bindings');
  const loaded = bindings({ bindings: ADDON, module_root: packageRoot }) as NativeAddon;
  const built = loaded.systemInfo().version;
  if (built !== packageVersion) {
    throw new StepwardError(
      'NATIVE_LOAD',
      `the native addon was built for Stepward ${built}, but this is ${packageVersion}: run 'npm run setup' in ${packageRoot}`,
    );
  }
  return loaded;
}

function describe(cause: unknown): StepwardError {
  const text = cause instanceof Error ? cause.message : String(cause);
  const lines = (problem: string, ...remedies: string[]) =>
    new StepwardError('NATIVE_LOAD', [problem, ...remedies.map((remedy) => `  - ${remedy}`)].join('\n'), { cause });
  const setup = `in ${packageRoot}: npm run setup`;

  if (!existsSync(path.join(addonDirectory, ADDON))) {
    return lines(`the native addon is not built (expected ${path.join(addonDirectory, ADDON)}). To mend it:`, setup);
  }
  if (!existsSync(path.join(addonDirectory, 'libtorch/lib'))) {
    return lines(
      `the libtorch that the native addon was built with is gone (${linkTarget()}). Any one of:`,
      `${setup} (finds another libtorch or fetches one, and builds for it)`,
      `LIBTORCH=/path/to/libtorch npm run setup`,
    );
  }
  return lines(
    `the native addon could not be loaded: ${text}`,
    `${setup} (builds again for the libtorch found now)`,
    'start from a clean build: rm -rf build, then npm run setup',
    `if it names a CUDA library: install torch's NVIDIA packages, or build for the CPU with STEPWARD_CUDA=off npm run setup`,
  );
}

/** The torch package folder the addon goes to, or what is known of it when it is gone. */
export function linkTarget(): string {
  const link = path.join(addonDirectory, 'libtorch');
  try {
    return realpathSync(link);
  } catch {
    return `${link} leads nowhere`;
  }
}
