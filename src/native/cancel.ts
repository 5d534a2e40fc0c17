// AbortSignals as the addon's cancel tokens. What a token does to running work is the core's business.

import { StepwardError, toStepwardError } from '../errors.js';
import type { NativeAddon, NativeHandle } from './contract.js';

const cancelled = (signal: AbortSignal) =>
  new StepwardError('CANCELLED', 'the work was cancelled by its AbortSignal', { cause: signal.reason });

/** The rejection of work under a signal: CANCELLED with the signal's reason where that ended it. */
function asCancelled(error: unknown, signal: AbortSignal | undefined): unknown {
  return signal?.aborted && toStepwardError(error).code === 'CANCELLED' ? cancelled(signal) : error;
}

/**
 * Runs addon work under a cancel token that follows `signal`, and disposes of the token. When the signal aborted, the
 * rejection is CANCELLED with `cause` = signal.reason; work that finished before the abort took effect still resolves.
 */
export async function withCancel<T>(
  addon: NativeAddon,
  signal: AbortSignal | undefined,
  run: (token: NativeHandle) => Promise<T>,
): Promise<T> {
  if (signal?.aborted) throw cancelled(signal);
  const token = addon.createCancelToken();
  const onAbort = () => addon.cancel(token);
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return await run(token);
  } catch (error) {
    throw asCancelled(error, signal);
  } finally {
    signal?.removeEventListener('abort', onAbort);
    await addon.dispose(token);
  }
}

interface SharedToken {
  token: NativeHandle;
  users: number;
  release(): void;
}

const shared = new WeakMap<AbortSignal, SharedToken>();

/** The same with one token and one listener for all work that is under way with the signal: for many small requests. */
export async function withSharedCancel<T>(
  addon: NativeAddon,
  signal: AbortSignal | undefined,
  run: (token: NativeHandle) => Promise<T>,
): Promise<T> {
  if (!signal) return withCancel(addon, signal, run);
  if (signal.aborted) throw cancelled(signal);
  const use = shared.get(signal) ?? share(addon, signal);
  use.users++;
  try {
    return await run(use.token);
  } catch (error) {
    throw asCancelled(error, signal);
  } finally {
    if (--use.users === 0) use.release();
  }
}

function share(addon: NativeAddon, signal: AbortSignal): SharedToken {
  const token = addon.createCancelToken();
  const onAbort = () => addon.cancel(token);
  signal.addEventListener('abort', onAbort, { once: true });
  const release = (): void => {
    shared.delete(signal);
    signal.removeEventListener('abort', onAbort);
    void addon.dispose(token);
  };
  const made = { token, users: 0, release };
  shared.set(signal, made);
  return made;
}
