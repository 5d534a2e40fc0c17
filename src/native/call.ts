// Calls into the addon: failures come back as StepwardErrors whose stack leads to the caller, for a rejected native
// promise has no JavaScript frames of its own.

import { toStepwardError } from '../errors.js';

/** Awaits `run()`, which calls the addon. The original error, with its native trace if it has one, stays as `cause`. */
export async function callNative<T>(run: () => Promise<T>): Promise<T> {
  const here: { stack?: string } = {};
  Error.captureStackTrace(here, callNative);
  try {
    return await run();
  } catch (thrown) {
    const error = toStepwardError(thrown);
    const frames = here.stack?.slice(here.stack.indexOf('\n')) ?? '';
    if (error !== thrown) error.stack = `${error.name}: ${error.message}${frames}`;
    throw error;
  }
}
