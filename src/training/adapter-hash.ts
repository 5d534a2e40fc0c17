// What a LoRA adapter folder holds, as one hash.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** sha256 (hex) over the adapter's configuration and weights. */
export function adapterHash(directory: string): string {
  const hash = createHash('sha256');
  for (const name of ['adapter_config.json', 'adapter_model.safetensors'])
    hash.update(readFileSync(join(directory, name)));
  return hash.digest('hex');
}
