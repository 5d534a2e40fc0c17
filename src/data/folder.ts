// Folders that are asked for by name: whether they are there.

import { statSync } from 'node:fs';
import { StepwardError } from '../errors.js';

/**
 * Throws FILE_NOT_FOUND where there is nothing at `path`, INVALID_ARGUMENT where it is no folder. `name`: the option or key
 * that gave it.
 */
export function checkFolder(name: string, path: string, expected = 'a model folder'): void {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (!stats) throw new StepwardError('FILE_NOT_FOUND', `${name}: expected ${expected}, and ${path} does not exist`);
  if (!stats.isDirectory())
    throw new StepwardError('INVALID_ARGUMENT', `${name}: expected ${expected}, got the file ${path}`);
}
