// Reads safetensors files and model folders for tests, independently of the native reader. Trusts its input.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface StoredTensor {
  dtype: string;
  shape: number[];
  /** As stored, little-endian. */
  bytes: Uint8Array;
  /** Values, bfloat16 widened. */
  values: Float32Array;
}

function widen(dtype: string, bytes: Uint8Array): Float32Array {
  const copy = Uint8Array.from(bytes).buffer;
  if (dtype === 'F32') return new Float32Array(copy);
  if (dtype === 'BF16') return new Float32Array(Uint32Array.from(new Uint16Array(copy), (half) => half << 16).buffer);
  throw new Error(`expected F32 or BF16, got ${dtype}`);
}

export function readTensors(file: string): Map<string, StoredTensor> {
  const data = readFileSync(file);
  const length = Number(data.readBigUInt64LE(0));
  const header = JSON.parse(data.subarray(8, 8 + length).toString('utf8')) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, StoredTensor>();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const bytes = data.subarray(8 + length + data_offsets[0], 8 + length + data_offsets[1]);
    tensors.set(name, { dtype, shape, bytes, values: widen(dtype, bytes) });
  }
  return tensors;
}

/** Every tensor of a model folder, sharded or not. */
export function readModel(directory: string): Map<string, StoredTensor> {
  const index = join(directory, 'model.safetensors.index.json');
  if (!existsSync(index)) return readTensors(join(directory, 'model.safetensors'));
  const { weight_map } = JSON.parse(readFileSync(index, 'utf8')) as { weight_map: Record<string, string> };
  const shards = new Map(
    [...new Set(Object.values(weight_map))].map((file) => [file, readTensors(join(directory, file))]),
  );
  return new Map(Object.entries(weight_map).map(([name, file]) => [name, shards.get(file)!.get(name)!]));
}
