// Stamps: build/stamps.json remembers what each step was made from, so that an unchanged step is skipped.
// Contents are hashed, not times: a fresh clone, a branch switch and a copied folder all give the right answer.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { root } from './machine.mjs';

const file = path.join(root, 'build/stamps.json');

/** Hash of files and folders (paths relative to the root, missing ones ignored) and of a few values. */
export function hashInputs(paths, values = {}) {
  const hash = createHash('sha256').update(JSON.stringify(values));
  for (const name of paths.flatMap((entry) => list(path.join(root, entry))).sort()) {
    hash.update(`\0${path.relative(root, name)}\0`).update(readFileSync(name));
  }
  return hash.digest('hex');
}

function list(entry) {
  if (!existsSync(entry)) return [];
  if (!statSync(entry).isDirectory()) return [entry];
  return readdirSync(entry).flatMap((name) => list(path.join(entry, name)));
}

export function readStamps() {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return {};
  }
}

/** Sets some stamps and keeps the others. */
export function writeStamps(changes) {
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, `${JSON.stringify({ ...readStamps(), ...changes }, null, 2)}\n`);
  renameSync(`${file}.new`, file);
}
