// Facts about the addon and the machine, and the size of the one compute pool.

import { toStepwardError } from '../errors.js';
import type { SystemInfo } from './contract.js';
import { loadAddon } from './load.js';

export type { SystemInfo } from './contract.js';

/** What the addon was built with and what this machine offers. */
export function systemInfo(): SystemInfo {
  return loadAddon().systemInfo();
}

/**
 * Compute threads of the whole process, 1 to 1024. Default: OMP_NUM_THREADS, else the CPUs this process may use (affinity
 * and cgroup quota). Takes effect with each engine's next job; best called before the first model is loaded.
 */
export function setThreads(threads: number): void {
  try {
    loadAddon().setThreads(threads);
  } catch (error) {
    throw toStepwardError(error);
  }
}
