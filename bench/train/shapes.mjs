// Model shapes and preference data of the training benchmark, and what they cost by arithmetic.

import { randomIds } from '../lib/random-ids.mjs';

/** A llama config.json; `dtype` is what its weights are stored in. */
export function llama({ hidden, intermediate, layers, heads, kvHeads, vocabulary, tied = false, dtype = 'float32' }) {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: vocabulary,
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    initializer_range: 0.02,
    tie_word_embeddings: tied,
    torch_dtype: dtype,
  };
}

export const SHAPES = {
  bench: { hidden: 512, intermediate: 1408, layers: 4, heads: 8, kvHeads: 2 },
  // Tries the scripts out in seconds; its ratios mean nothing.
  tiny: { hidden: 64, intermediate: 160, layers: 2, heads: 4, kvHeads: 2 },
};

/** Models of sweep-model: the bench shape's proportions at other widths and depths. */
export const MODEL_SWEEP = [
  { hidden: 128, intermediate: 352, layers: 4, heads: 2, kvHeads: 1 },
  { hidden: 256, intermediate: 704, layers: 4, heads: 4, kvHeads: 1 },
  { hidden: 512, intermediate: 1408, layers: 4, heads: 8, kvHeads: 2 },
  { hidden: 512, intermediate: 1408, layers: 8, heads: 8, kvHeads: 2 },
  { hidden: 1024, intermediate: 2816, layers: 4, heads: 16, kvHeads: 4 },
];

export const SMOLLM2_135M = {
  hidden: 576,
  intermediate: 1536,
  layers: 30,
  heads: 9,
  kvHeads: 3,
  vocabulary: 49152,
  tied: true,
};

/**
 * Tree records with `steps` judged steps of `step` tokens after a prompt of `prompt`, one rejected step each. All lengths
 * are equal, which is the kind case for a trainer that pads.
 */
export function trees({ problems, prompt, steps, step }, vocabulary, seed = 3) {
  const ids = randomIds(seed, vocabulary);
  return Array.from({ length: problems }, () => ({
    prompt_ids: ids(prompt),
    steps: Array.from({ length: steps }, () => ({ chosen_ids: ids(step), rejected: [{ ids: ids(step) }] })),
  }));
}

/** Tokens, scored tokens and (query, key) pairs of one tree of trees(): packed, and as two chains for every pair. */
export function treeCounts({ prompt, steps, step }) {
  const causal = (n) => (n * (n + 1)) / 2;
  const contexts = Array.from({ length: steps }, (_, k) => prompt + k * step);
  const trunk = prompt + steps * step;
  return {
    packed: {
      tokens: trunk + steps * step,
      scored: 2 * steps * step,
      attended: causal(trunk) + contexts.reduce((sum, context) => sum + context * step + causal(step), 0),
    },
    unpacked: {
      tokens: contexts.reduce((sum, context) => sum + 2 * (context + step), 0),
      scored: 2 * steps * step,
      attended: contexts.reduce((sum, context) => sum + 2 * causal(context + step), 0),
    },
  };
}

export function parameters({ hidden, intermediate, layers, heads, kvHeads, vocabulary, tied = false }) {
  const keyValue = (kvHeads * hidden) / heads;
  const layer = hidden * (2 * hidden + 2 * keyValue) + 3 * hidden * intermediate + 2 * hidden;
  return { layers: layers * layer, all: layers * layer + hidden + (tied ? 1 : 2) * vocabulary * hidden };
}

/**
 * Floating point operations of one full fine-tuning pass over what treeCounts() counts, with a flash kind of attention
 * (7 products of which 2 are the forward pass), a head that is run for scored tokens alone and once more for its backward,
 * and the reference's forward pass.
 */
export function flops(shape, { tokens, scored, attended }) {
  const layers = 2 * parameters(shape).layers * tokens;
  const head = 2 * shape.hidden * shape.vocabulary * scored;
  const attention = 4 * shape.hidden * attended * shape.layers;
  return { train: 3 * layers + 4 * head + 3.5 * attention, reference: layers + head + attention };
}
