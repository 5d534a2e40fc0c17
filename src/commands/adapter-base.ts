// Whether an adapter is for the model that it is put onto, as far as names tell. The core compares shapes, and fingerprints
// where Stepward wrote the adapter; PEFT's own files hold no more of their base than its name.

import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** What to warn of; undefined: nothing. Files that cannot be read are the core's to tell of. */
export function otherBaseRemark(model: string, adapter: string): string | undefined {
  const base = readJson(join(adapter, 'adapter_config.json'))?.base_model_name_or_path;
  if (typeof base !== 'string' || base === '') return undefined;
  const own = readJson(join(model, 'config.json'))?._name_or_path;
  const names = [resolve(model), ...(typeof own === 'string' && own !== '' ? [own] : [])].map(modelName);
  if (names.some((name) => name.toLowerCase() === modelName(base).toLowerCase())) return undefined;
  if (hasFingerprint(join(adapter, 'adapter_model.safetensors'))) return undefined;
  return (
    `--adapter: ${adapter} was made for ${base}, and --model ${model} is ${[...new Set(names)].join(' or ')} by name; ` +
    'the shapes fit, and whether the weights are the same its files do not say (--allow-other-base: no warning)'
  );
}

/** The last part of a path or of a hub's name; of a snapshot in Hugging Face's cache the model's, not the commit. */
function modelName(path: string): string {
  const parts = path.split(/[/\\]/).filter((part) => part !== '');
  const cached = parts.at(-2) === 'snapshots' ? parts.at(-3)?.split('--').at(-1) : undefined;
  return cached ?? parts.at(-1) ?? path;
}

function readJson(path: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

// The format's own limit.
const MAX_HEADER = 100_000_000;

/** Whether the metadata of a safetensors file has the base's fingerprint: 8 bytes of length, then the header as JSON. */
function hasFingerprint(path: string): boolean {
  const read = (file: number, at: number, length: number): Buffer => {
    const bytes = Buffer.alloc(length);
    return bytes.subarray(0, readSync(file, bytes, 0, length, at));
  };
  let file: number | undefined;
  try {
    file = openSync(path, 'r');
    const length = Number(read(file, 0, 8).readBigUInt64LE());
    if (length > MAX_HEADER) return false;
    const header = JSON.parse(read(file, 8, length).toString('utf8')) as { __metadata__?: Record<string, string> };
    return header.__metadata__?.stepward_base !== undefined;
  } catch {
    return false;
  } finally {
    if (file !== undefined) closeSync(file);
  }
}
