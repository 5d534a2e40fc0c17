// A run folder on disk. Everything that made M(n), and its evaluation, lies in Mn/. A file or model folder has its final
// name only once it is whole, so what exists is finished: that is all that --resume needs to know.

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileError } from '../data/jsonl.js';
import { StepwardError } from '../errors.js';

export type StageFile =
  | 'search.jsonl'
  | 'search.json'
  | 'pairs.jsonl'
  | 'train.jsonl'
  | 'train.json'
  | 'solutions.jsonl'
  | 'eval.json';

export class RunFolder {
  constructor(readonly directory: string) {
    mkdirSync(directory, { recursive: true });
  }

  /**
   * Takes run.json away again, and the folder where nothing else is in it. False, and nothing is touched, once there is a
   * model's folder.
   */
  withdraw(): boolean {
    if (existsSync(this.model(1).directory)) return false;
    rmSync(this.path('run.json'), { force: true });
    if (readdirSync(this.directory).length === 0) rmdirSync(this.directory);
    return true;
  }

  /** M1 for 1. */
  model(n: number): ModelFolder {
    return new ModelFolder(join(this.directory, `M${n}`), `M${n}`);
  }

  path(name: string): string {
    return join(this.directory, name);
  }
}

export class ModelFolder {
  constructor(
    readonly directory: string,
    readonly name: string,
  ) {}

  /** The Hugging Face folder. */
  get model(): string {
    return join(this.directory, 'model');
  }

  path(file: StageFile): string {
    return join(this.directory, file);
  }

  has(what: StageFile | 'model'): boolean {
    return existsSync(join(this.directory, what));
  }

  readJson<T>(file: StageFile): T {
    return JSON.parse(readFileSync(this.path(file), 'utf8')) as T;
  }
}

/** `write` fills a temporary path, file or folder, which then gets its final name. Nothing is left behind where it fails. */
export async function finished<T>(path: string, write: (part: string) => Promise<T>): Promise<T> {
  const part = `${path}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(join(path, '..'), { recursive: true });
  try {
    const result = await write(part);
    rmSync(path, { recursive: true, force: true });
    renameSync(part, path);
    return result;
  } catch (error) {
    rmSync(part, { recursive: true, force: true });
    throw error;
  }
}

/** Writes JSON, two spaces deep, under a temporary name first. */
export function writeJson(path: string, value: unknown): void {
  const part = `${path}.part`;
  try {
    writeFileSync(part, `${JSON.stringify(value, null, 2)}\n`);
    renameSync(part, path);
  } catch (error) {
    throw fileError(path, error);
  }
}

/** `base`, or base-2, base-3, ...: the first that holds no run. */
export function freshDirectory(base: string): string {
  for (let n = 1; ; n++) {
    const directory = n === 1 ? base : `${base}-${n}`;
    if (!existsSync(directory)) return directory;
  }
}

/** The last of base, base-2, ... that exists. Throws FILE_NOT_FOUND. */
export function latestDirectory(base: string): string {
  if (!existsSync(base)) throw new StepwardError('FILE_NOT_FOUND', `${base}: no run folder to resume`);
  let latest = base;
  for (let n = 2; existsSync(`${base}-${n}`); n++) latest = `${base}-${n}`;
  return latest;
}

/** The folder in `parent` whose run.json was written last. Throws FILE_NOT_FOUND. */
export function latestRun(parent: string): string {
  const written = (directory: string) => statSync(join(directory, 'run.json')).mtimeMs;
  const runs = (existsSync(parent) ? readdirSync(parent) : [])
    .map((name) => join(parent, name))
    .filter((directory) => existsSync(join(directory, 'run.json')))
    .sort((a, b) => written(b) - written(a));
  if (!runs[0]) throw new StepwardError('FILE_NOT_FOUND', `${parent}: no run to resume; name its folder with --run`);
  return runs[0];
}
