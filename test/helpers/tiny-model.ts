// Model folders with a config.json alone: with `initSeed` they load as small random models in milliseconds.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import type { ModelInfo } from '../../src/native/types.js';

const ARCHITECTURES: Record<ModelInfo['family'], string> = {
  llama: 'LlamaForCausalLM',
  mistral: 'MistralForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
};

/** config.json of a model of 64 tokens, width 32, 2 layers, 4 heads over 2 kv heads; `changes` replace or add keys. */
export function tinyConfig(family: ModelInfo['family'] = 'llama', changes: Record<string, unknown> = {}) {
  return {
    architectures: [ARCHITECTURES[family]],
    model_type: family,
    vocab_size: 64,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 8,
    max_position_embeddings: 128,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    tie_word_embeddings: false,
    bos_token_id: 0,
    eos_token_id: 1,
    initializer_range: 0.02,
    torch_dtype: 'float32',
    ...changes,
  };
}

/** Sampling a row to this model's last position takes minutes: whatever ends sooner was cut short. */
export const ENDLESS = { hidden_size: 256, intermediate_size: 1024, head_dim: 64, max_position_embeddings: 1_000_000 };

/** Folders that go when the test file ends. Call once at the top of a test file. */
export function tinyModels(): (family?: ModelInfo['family'], changes?: Record<string, unknown>) => string {
  const scratch = mkdtempSync(join(tmpdir(), 'stepward-tiny-'));
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));
  return (family, changes) => {
    const folder = mkdtempSync(join(scratch, 'model-'));
    writeFileSync(join(folder, 'config.json'), JSON.stringify(tinyConfig(family, changes)));
    return folder;
  };
}

/** A tree of a root (2 tokens) with two leaves (2 tokens each). */
export const smallForest = () => ({
  tokens: Int32Array.of(2, 3, 4, 5, 6, 7),
  offsets: Int32Array.of(0, 2, 4, 6),
  parents: Int32Array.of(-1, 0, 0),
});
