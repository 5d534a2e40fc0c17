// The most memory this process held at once.

import { readFileSync } from 'node:fs';

/**
 * Bytes, from /proc/self/status; undefined where the system has none. Not getrusage's maxRSS: a child starts with its
 * parent's, so a large caller would be counted as ours.
 */
export function peakMemory(): number | undefined {
  try {
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    return peak ? Number(peak[1]) * 1024 : undefined;
  } catch {
    return undefined;
  }
}
