// LoRA against the full gradient of torch autograd: with B = 0, the first step moves B by -lr * scale * G A^T and leaves A.

import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import { GOLDENS, modelFolder, type PreferenceGolden, readGolden, scratchFolder, worst } from '../helpers/goldens.js';
import { tensorErrors, worstEntry } from '../helpers/gradients.js';
import { packedBatch } from '../helpers/preference-batch.js';
import { readModel, readTensors, type StoredTensor } from '../helpers/safetensors.js';

const golden = readGolden<{ single: PreferenceGolden[] }>('dpo.json').single.find(
  ({ gradient_file }) => gradient_file,
)!;
const scratch = scratchFolder();
const [RANK, ALPHA, RATE] = [3, 12, 0.05];
const TARGETS = ['q_proj', 'v_proj', 'o_proj', 'gate_proj', 'down_proj', 'lm_head'];

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

/** left [n, k] times right [k, m], or its transpose [m, k]. */
function product(left: StoredTensor, right: StoredTensor, transposed: boolean): Float64Array {
  const [rows, inner] = left.shape as [number, number];
  const columns = right.shape[transposed ? 0 : 1]!;
  return Float64Array.from({ length: rows * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    let sum = 0;
    for (let k = 0; k < inner; k++) {
      sum += left.values[row * inner + k]! * right.values[transposed ? column * inner + k : k * columns + column]!;
    }
    return sum;
  });
}

it('steps, keeps its reference, saves and merges as the mathematics of LoRA says', async () => {
  const engine = await Engine.load({ directory: modelFolder(golden.model), device: 'cpu', dtype: 'float32' });
  const trainer = await engine.createTrainer({
    optimizer: 'sgd',
    lora: { rank: RANK, alpha: ALPHA, targets: TARGETS, seed: 5 },
  });
  let adapted: Float64Array = new Float64Array(0);
  try {
    const zeros = new Float32Array(golden.completion_logprobs.length);
    const reference = await trainer.referenceLogprobs(packedBatch(golden.trees, golden.options, zeros));
    const batch = packedBatch(golden.trees, golden.options, reference);
    expect(Math.abs((await trainer.accumulatePreference(batch)).loss - Math.LN2)).toBeLessThanOrEqual(1e-6);
    await trainer.apply(RATE);
    await trainer.saveAdapter(join(scratch, 'adapter'), modelFolder(golden.model));

    const trained = await trainer.accumulatePreference(batch);
    adapted = trained.completionLogprobs;
    await trainer.zeroGrad();
    expect(trained.loss).toBeLessThan(Math.LN2 - 0.005);
    expect(worst(await trainer.referenceLogprobs(batch), reference)).toBe(0);
    await trainer.mergeAdapter();
    await engine.save(join(scratch, 'merged'));

    const gradient = readTensors(join(GOLDENS, golden.gradient_file!));
    const adapter = readTensors(join(scratch, 'adapter', 'adapter_model.safetensors'));
    const [before, merged] = [readModel(modelFolder(golden.model)), readModel(join(scratch, 'merged'))];
    const scale = ALPHA / RANK;
    const [steps, wanted] = [new Map<string, Float64Array>(), new Map<string, Float64Array>()];
    for (const [name, weight] of before) {
      const prefix = `base_model.model.${name.replace(/\.weight$/, '')}`;
      const b = adapter.get(`${prefix}.lora_B.weight`);
      if (!b) {
        expect(
          TARGETS.some((target) => name.endsWith(`${target}.weight`)),
          name,
        ).toBe(false);
        expect(worst(merged.get(name)!.values, weight.values), name).toBe(0);
        continue;
      }
      const a = adapter.get(`${prefix}.lora_A.weight`)!;
      expect(a.shape, name).toEqual([RANK, weight.shape[1]]);
      steps.set(
        name,
        Float64Array.from(b.values, (value) => value / (-RATE * scale)),
      );
      wanted.set(name, product(gradient.get(name)!, a, true));
      const sum = product(b, a, false).map((value, i) => weight.values[i]! + scale * value);
      expect(worst(merged.get(name)!.values, sum), name).toBeLessThanOrEqual(1e-6);
    }
    expect(steps.size).toBe(2 * (TARGETS.length - 1) + 1);
    const found = worstEntry(tensorErrors(steps, wanted));
    expect(found.error, found.name).toBeLessThanOrEqual(1e-5);
  } finally {
    await trainer.dispose();
    await engine.dispose();
  }
  // The merged weights score as the model with its adapter did.
  const again = await Engine.load({ directory: join(scratch, 'merged'), device: 'cpu', dtype: 'float32' });
  const trainerAgain = await again.createTrainer({ optimizer: 'sgd' });
  try {
    const zeros = new Float32Array(golden.completion_logprobs.length);
    const logprobs = await trainerAgain.referenceLogprobs(packedBatch(golden.trees, golden.options, zeros));
    expect(worst(logprobs, adapted)).toBeLessThanOrEqual(1e-4);
    expect(worst(logprobs, golden.completion_logprobs)).toBeGreaterThan(0.1);
  } finally {
    await trainerAgain.dispose();
    await again.dispose();
  }
});
