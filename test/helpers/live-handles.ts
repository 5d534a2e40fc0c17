// Every native test file ends with no live handle.

import { afterAll, expect } from 'vitest';
import { loadAddon } from '../../src/native/load.js';

/** Call once at the top of a test file. */
export function expectNoLiveHandles(): void {
  afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));
}
