import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // A crash in native code takes down one worker, not the run, and every file starts with a fresh libtorch.
    pool: 'forks',
    // Each native test file uses all cores already.
    maxWorkers: 1,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
