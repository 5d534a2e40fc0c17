// Outputs appear whole or not at all: files and folders are written beside their place and moved there at the end.

import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileError, JsonlWriter } from '../data/jsonl.js';
import { StepwardError } from '../errors.js';

/** Runs `write` with a writer of JSON lines; `path` is replaced once it is done. */
export async function writeJsonlFile<T>(path: string, write: (writer: JsonlWriter) => Promise<T>): Promise<T> {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) {
    throw new StepwardError('INVALID_ARGUMENT', `--output: expected a file, got the folder ${path}`);
  }
  return staged(path, async (staging) => {
    const writer = new JsonlWriter(staging);
    try {
      const result = await write(writer);
      writer.close();
      renameSync(staging, path);
      return result;
    } finally {
      writer.close();
    }
  });
}

/** Refuses a folder with something in it, unless `overwrite`. `names`: refuses only a folder with one of these in it. */
export function checkOutputFolder(path: string, overwrite: boolean, names?: readonly string[]): void {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats && !stats.isDirectory())
    throw new StepwardError('INVALID_ARGUMENT', `--output: expected a folder, got the file ${path}`);
  if (!stats || overwrite) return;
  const found = readdirSync(path);
  const there = names?.find((name) => found.includes(name));
  if (names ? there === undefined : found.length === 0) return;
  const [wanted, has] = names ? [`a folder without ${names.join(' and ')}`, there] : ['a new or empty folder', 'files'];
  throw new StepwardError(
    'INVALID_ARGUMENT',
    `--output: expected ${wanted}, ${path} has ${has} in it (--overwrite replaces them)`,
  );
}

/** Runs `write` with an empty folder whose files then go to `path`. Model files of an earlier run there are replaced. */
export async function writeFolder<T>(path: string, write: (folder: string) => Promise<T>): Promise<T> {
  return staged(path, async (staging) => {
    mkdirSync(staging, { recursive: true });
    const result = await write(staging);
    if (existsSync(path)) moveInto(staging, path);
    else renameSync(staging, path);
    return result;
  });
}

function moveInto(staging: string, path: string): void {
  const weights = (name: string) => /\.safetensors(\.index\.json)?$/.test(name);
  const made = readdirSync(staging);
  // Old shards beside a new single file would be taken for part of the model.
  if (made.some(weights)) for (const name of readdirSync(path).filter(weights)) rmSync(join(path, name));
  for (const name of made) {
    rmSync(join(path, name), { recursive: true, force: true });
    renameSync(join(staging, name), join(path, name));
  }
}

/** Whatever `write` leaves at the place it is given is removed, also where the process is told to end at once. */
async function staged<T>(path: string, write: (staging: string) => Promise<T>): Promise<T> {
  const full = resolve(path);
  const staging = join(dirname(full), `.${basename(full)}.partial-${process.pid}`);
  const remove = (): void => rmSync(staging, { recursive: true, force: true });
  process.once('exit', remove);
  try {
    remove();
    return await write(staging);
  } catch (error) {
    throw fileError(path, error);
  } finally {
    process.off('exit', remove);
    remove();
  }
}
