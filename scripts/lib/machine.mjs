// What every script needs of the machine: the repository root, programs on PATH, running them, and errors with remedies.
// Scripts talk on stderr, so that the stdout of `npm start` belongs to the training run.

import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
export const packageVersion = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')).version;

/** Something the user has to mend; `remedies` are ways to do it, any one of which is enough. */
export class SetupError extends Error {
  constructor(message, remedies = []) {
    super([message, ...remedies.map((remedy) => `  - ${remedy}`)].join('\n'));
    this.name = 'SetupError';
  }
}

export function say(text) {
  process.stderr.write(`[stepward] ${text}\n`);
}

/** Full path of a program on PATH, or undefined. A name with a slash is taken as a path. */
export function which(name) {
  const candidates = name.includes('/')
    ? [path.resolve(name)]
    : (process.env.PATH ?? '').split(':').map((directory) => path.join(directory || '.', name));
  return candidates.find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return statSync(file).isFile();
    } catch {
      return false;
    }
  });
}

/** The trimmed stdout of a program, or undefined when it cannot be run or fails. */
export function capture(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', ...options });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

/** Runs a program with its output on stderr; resolves to its exit status. `onStderr` gets a piped stderr's text. */
export function run(command, args, { onStderr, ...options } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 2, 2], ...options });
    if (onStderr) child.stderr.setEncoding('utf8').on('data', onStderr);
    child.on('error', reject);
    child.on('close', (status, signal) => resolve(status ?? 128 + (os.constants.signals[signal] ?? 0)));
  });
}

/** Whether the module whose import.meta.url is given is the program that node was started with. */
export function isMain(url) {
  return process.argv[1] !== undefined && fileURLToPath(url) === path.resolve(process.argv[1]);
}

/** Runs a script's main function: exit 2 with the message for a SetupError, 1 with the stack for a bug. */
export async function main(body) {
  try {
    process.exitCode = (await body()) ?? 0;
  } catch (error) {
    if (error instanceof SetupError) {
      process.stderr.write(`stepward set-up: ${error.message}\n`);
      process.exitCode = 2;
    } else {
      process.stderr.write(`${error?.stack ?? error}\n`);
      process.exitCode = 1;
    }
  }
}
