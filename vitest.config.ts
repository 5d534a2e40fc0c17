import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

// Commands keep reference log-probs in the user's cache folder, which tests must neither read nor write.
const cache = mkdtempSync(join(tmpdir(), 'stepward-cache-home-'));
process.on('exit', () => rmSync(cache, { recursive: true, force: true }));

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // A crash in native code takes down one worker, not the run, and every file starts with a fresh libtorch.
    pool: 'forks',
    // Each native test file uses all cores already.
    maxWorkers: 1,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    env: { XDG_CACHE_HOME: cache },
  },
});
