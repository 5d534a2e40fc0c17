// Where `dpo` keeps reference log-probs from one training to the next.

import { statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { addonDirectory } from '../native/load.js';
import { systemInfo } from '../native/system.js';
import type { ReferenceCacheOptions } from '../training/types.js';

/** `given`: a folder; undefined: the user's cache folder; false: no cache. */
export function referenceCache(given: string | false | undefined): ReferenceCacheOptions | undefined {
  if (given === false) return undefined;
  const home = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  // What decides the last bits of a sum, as far as the process knows it.
  const { version, torch, cpuCapability, cpuFeatures, cudaDevices, threads } = systemInfo();
  const settings = ['ONEDNN_MAX_CPU_ISA', 'MKL_CBWR'].map((name) => process.env[name]);
  const addon = statSync(join(addonDirectory, 'stepward.node'), { throwIfNoEntry: false });
  const build = [version, torch, addon?.size, addon?.mtimeMs];
  return {
    directory: given ?? join(home, 'stepward', 'reference'),
    machine: JSON.stringify([build, cpuCapability, cpuFeatures, cudaDevices, threads, settings]),
  };
}
