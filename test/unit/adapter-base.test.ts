// When an adapter is said to be of another base, by names alone.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { otherBaseRemark } from '../../src/commands/adapter-base.js';

const root = mkdtempSync(join(tmpdir(), 'stepward-base-'));
afterAll(() => rmSync(root, { recursive: true }));

function folder(name: string, file: string, content: object): string {
  const path = join(root, name);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, file), JSON.stringify(content));
  return path;
}

const adapter = (base: unknown, metadata?: object): string => {
  const path = folder('adapter', 'adapter_config.json', { base_model_name_or_path: base });
  const header = Buffer.from(JSON.stringify({ __metadata__: { format: 'pt', ...metadata } }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  writeFileSync(join(path, 'adapter_model.safetensors'), Buffer.concat([length, header]));
  return path;
};

it.each([
  ['the folder has its name', 'Llama-3B', {}, 'meta/Llama-3B'],
  ['in other letters, with a slash', 'llama-3b/', {}, 'D:\\models\\Llama-3B\\'],
  ['the config has it', 'mine', { _name_or_path: '/data/Llama-3B' }, 'meta/Llama-3B'],
  ['the model is in a cache', 'hub/models--meta--Llama-3B/snapshots/0a1b', {}, 'meta/Llama-3B'],
  ['the adapter was made in a cache', 'Llama-3B', {}, '/x/hub/models--meta--Llama-3B/snapshots/0a1b'],
  ['it names none', 'mine', {}, null],
])('says nothing where %s', (_case, model, config, base) => {
  expect(otherBaseRemark(folder(model, 'config.json', config), adapter(base))).toBeUndefined();
});

it('names the adapter, its base, and what the model is called', () => {
  const model = folder('mine', 'config.json', { _name_or_path: 'meta/Llama-3B' });
  expect(otherBaseRemark(model, adapter('meta/Llama-3B-Instruct'))).toContain(
    `${join(root, 'adapter')} was made for meta/Llama-3B-Instruct, and --model ${model} is mine or Llama-3B by name; `,
  );
});

it('leaves adapters with a fingerprint to it, and folders without files to who loads them', () => {
  const model = folder('mine', 'config.json', {});
  expect(otherBaseRemark(model, adapter('meta/Other', { stepward_base: '0123' }))).toBeUndefined();
  expect(otherBaseRemark(join(root, 'nowhere'), join(root, 'nowhere'))).toBeUndefined();
});
