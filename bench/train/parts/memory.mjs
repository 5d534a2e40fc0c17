// Peak memory of full and LoRA training of a 135M-parameter model on pairs of 512 tokens, beside the estimate made before.

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { gib } from '../report.mjs';
import { SMOLLM2_135M, trees } from '../shapes.mjs';

/** Prompt 256 and answers of 256: 512 tokens a side. */
const LENGTHS = { problems: 16, prompt: 256, steps: 1, step: 256 };
const LIMITS = { full: 8 * 2 ** 30, lora: 4 * 2 ** 30 };

export async function memory(bench) {
  const { sides, options } = bench;
  const small = options.shape === 'tiny';
  const shape = small ? { ...bench.shape, vocabulary: 512 } : SMOLLM2_135M;
  const models = [[small ? 'a tiny model' : 'random weights of SmolLM2-135M', await bench.model(shape)]];
  if (options.model) models.push([options.model, options.model]);
  for (const [name, model] of models) {
    const { vocab_size: vocabulary } = JSON.parse(readFileSync(path.join(model, 'config.json'), 'utf8'));
    const job = { ...bench.job, batch_size: 8, max_steps: 2, trees: trees(LENGTHS, vocabulary) };
    for (const kind of ['full', 'lora']) {
      const result = sides.ours(model, { ...job, ...(kind === 'lora' && { lora: { rank: 16 } }) });
      const { peak_bytes: peak, training_peak_bytes: training, estimated_bytes: estimate, seconds } = result;
      bench.keep('memory', { model: name, kind, limit_bytes: LIMITS[kind], ...result });
      const guess =
        estimate === undefined
          ? 'no estimate'
          : `estimate ${gib(estimate)}, ${(100 * (estimate / training - 1)).toFixed(1)}% off the ${gib(training)} of training`;
      console.log(
        `\nmemory, ${kind}, ${name}: peak ${gib(peak)} of ${gib(LIMITS[kind])} (${peak <= LIMITS[kind] ? 'within' : 'OVER'}), ` +
          `${guess}; ${result.pairs} pairs in ${seconds.toFixed(1)} s`,
      );
    }
  }
}
