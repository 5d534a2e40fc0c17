// The SFT loss and its gradient against torch autograd on unpacked examples.

import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ForestBuilder } from '../../src/data/forest.js';
import { Engine } from '../../src/native/engine.js';
import { loadAddon } from '../../src/native/load.js';
import type { SftBatch } from '../../src/native/types.js';
import { readLines, succeed, writeLines } from '../helpers/command.js';
import { modelFolder, readGolden, type SftGolden, scratchFolder } from '../helpers/goldens.js';
import { HUGE_RATE, recoverGradient, summaryErrors, worstEntry } from '../helpers/gradients.js';
import { readModel } from '../helpers/safetensors.js';

const goldens = readGolden<SftGolden[]>('sft.json');
const scratch = scratchFolder();

function sftBatch(chains: SftGolden['chains'], tokenNorm: number): SftBatch {
  const builder = new ForestBuilder();
  const weights: [number, number][] = [];
  for (const { segments } of chains) {
    let last: number | undefined;
    for (const { ids, weight } of segments) {
      last = last === undefined ? builder.root(ids) : builder.child(last, ids);
      weights.push([last, weight]);
    }
  }
  const { forest, segments } = builder.build();
  const segmentWeight = new Float32Array(segments.length);
  for (const [handle, weight] of weights) segmentWeight[segments[handle]!] = weight;
  return { forest, segmentWeight, tokenNorm };
}

afterAll(() => expect(loadAddon().debugLiveHandles()).toBe(0));

describe.each(goldens)('$model, $name', (golden) => {
  it('has the loss and the gradient of autograd', async () => {
    const engine = await Engine.load({ directory: modelFolder(golden.model), device: 'cpu', dtype: 'float32' });
    const trainer = await engine.createTrainer({ optimizer: 'sgd' });
    try {
      // Two micro-batches, normalised by the whole step.
      const parts = [golden.chains.slice(0, 2), golden.chains.slice(2)];
      let loss = 0;
      for (const part of parts) loss += (await trainer.accumulateSft(sftBatch(part, golden.token_norm))).loss;
      expect(Math.abs(loss - golden.loss)).toBeLessThanOrEqual(1e-5);
      await trainer.apply(HUGE_RATE);
      const saved = join(scratch, `${golden.model}-${golden.name}`);
      await engine.save(saved);
      const gradient = recoverGradient(readModel(modelFolder(golden.model)), readModel(saved), HUGE_RATE);
      const found = worstEntry(summaryErrors(gradient, golden.gradient));
      expect(found.error, found.name).toBeLessThanOrEqual(1e-5);
    } finally {
      await trainer.dispose();
      await engine.dispose();
    }
  });
});

it.each(goldens.filter(({ name }) => name === 'plain'))(
  'the command steps by the same gradient: $model',
  async (golden) => {
    const output = join(scratch, `command-${golden.model}`);
    const records = golden.chains.map(({ segments }) => ({
      prompt_ids: segments[0]!.ids,
      completion_ids: segments[1]!.ids,
    }));
    await succeed('sft', {
      model: modelFolder(golden.model),
      data: writeLines(scratch, records),
      output,
      device: 'cpu',
      optimizer: 'sgd',
      lr: HUGE_RATE,
      'max-steps': 1,
      'max-grad-norm': 0,
      'batch-size': records.length,
    });
    const gradient = recoverGradient(readModel(modelFolder(golden.model)), readModel(output), HUGE_RATE);
    const found = worstEntry(summaryErrors(gradient, golden.gradient));
    expect(found.error, found.name).toBeLessThanOrEqual(1e-5);
    const metrics = readLines<{ loss: number }>(join(output, 'train.jsonl'));
    expect(metrics).toHaveLength(1);
    expect(Math.abs(metrics[0]!.loss - golden.loss)).toBeLessThanOrEqual(1e-5);
  },
);
