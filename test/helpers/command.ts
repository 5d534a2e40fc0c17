// Runs a stepward command of dist/ as its users do, in a process of its own.

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));

export interface CommandResult {
  status: number;
  stdout: string;
  stderr: string;
  /** The last line of stdout as JSON, where the command succeeded. */
  summary: Record<string, unknown>;
}

/** Option names as on the command line, without the dashes; true: a flag without a value. */
export type Options = Record<string, string | number | true>;

export function command(name: string, options: Options): Promise<CommandResult> {
  const flags = Object.entries(options).flatMap(([key, value]) =>
    value === true ? [`--${key}`] : [`--${key}`, `${value}`],
  );
  const args = [name, ...flags, '--json'];
  return new Promise((resolve) => {
    execFile(process.execPath, [CLI, ...args], { maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      const status = error ? (typeof error.code === 'number' ? error.code : 1) : 0;
      const last = stdout.trimEnd().split('\n').at(-1) ?? '';
      const summary = status === 0 ? (JSON.parse(last) as Record<string, unknown>) : {};
      resolve({ status, stdout, stderr, summary });
    });
  });
}

/** Runs a command that must succeed. */
export async function succeed(name: string, options: Options): Promise<CommandResult> {
  const result = await command(name, options);
  if (result.status !== 0) throw new Error(`stepward ${name}: exit code ${result.status}\n${result.stderr}`);
  return result;
}

/** Writes records as JSONL into a new file under `folder`; its path. */
export function writeLines(folder: string, records: object[]): string {
  const file = join(mkdtempSync(join(folder, 'data-')), 'records.jsonl');
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  return file;
}

export function readLines<T>(file: string): T[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as T);
}
