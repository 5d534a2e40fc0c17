// Where commands write: what an output folder may hold already, and what stays of it.

import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { checkOutputFolder, writeFolder } from '../../src/commands/output.js';

const root = mkdtempSync(join(tmpdir(), 'stepward-output-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

let folders = 0;
function folder(...names: string[]): string {
  const path = join(root, `f${++folders}`);
  mkdirSync(path);
  for (const name of names) writeFileSync(join(path, name), 'old');
  return path;
}

describe('an output folder', () => {
  const OWN = ['search.jsonl', 'pairs.jsonl'];

  it('may hold foreign files where the command names its own', () => {
    expect(() => checkOutputFolder(folder('notes.txt'), false, OWN)).not.toThrow();
    expect(() => checkOutputFolder(join(root, 'new'), false, OWN)).not.toThrow();
    for (const name of OWN) {
      expect(() => checkOutputFolder(folder('notes.txt', name), false, OWN)).toThrow(`has ${name} in it (--overwrite`);
      expect(() => checkOutputFolder(folder(name), true, OWN)).not.toThrow();
    }
  });

  it('must else be new or empty, and a folder', () => {
    expect(() => checkOutputFolder(folder(), false)).not.toThrow();
    expect(() => checkOutputFolder(folder('notes.txt'), false)).toThrow('expected a new or empty folder');
    expect(() => checkOutputFolder(join(folder('notes.txt'), 'notes.txt'), false)).toThrow('got the file');
  });

  it('keeps what is not replaced; a new model replaces the shards of an old one', async () => {
    const write = (path: string, name: string) =>
      writeFolder(path, async (staging) => writeFileSync(join(staging, name), 'new'));
    const model = ['config.json', 'model-00001-of-00002.safetensors', 'model.safetensors.index.json'];
    const searched = folder(...model);
    await write(searched, 'search.jsonl');
    expect(readdirSync(searched).sort()).toEqual([...model, 'search.jsonl'].sort());
    const trained = folder(...model);
    await write(trained, 'model.safetensors');
    expect(readdirSync(trained).sort()).toEqual(['config.json', 'model.safetensors']);
  });
});
