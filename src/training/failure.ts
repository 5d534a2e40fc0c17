// What is left behind when a number that is not finite stops a training: the micro-batch that did it, as records to be run
// again, and the weights of the last whole step.

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { JsonlWriter } from '../data/jsonl.js';
import { contextOf, type Pair, stepNumber } from './pairs.js';
import type { SftExample, TrainingFailure } from './types.js';

/** A pair as `dpo` reads it. */
export function pairRecord(pair: Pair): object {
  const step = stepNumber(pair);
  return {
    ...(pair.tree.id !== undefined && { id: pair.tree.id }),
    ...(step !== undefined && { step: step - 1 }),
    prompt_ids: contextOf(pair),
    chosen_ids: pair.chosen,
    rejected_ids: pair.rejected,
    weight: pair.weight,
    ...(pair.mix !== undefined && { mix: pair.mix }),
  };
}

/** An example as `sft` reads it. */
export function exampleRecord(example: SftExample): object {
  return { segments: example.segments };
}

/**
 * Writes `folder` anew: batch.jsonl, failure.json, with LoRA adapter/, and the model by `saveModel`. Throws what the engine
 * or the file system throws.
 */
export async function saveFailure(
  folder: string,
  failure: TrainingFailure,
  saveModel: (directory: string) => Promise<void>,
): Promise<void> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const batch = new JsonlWriter(join(folder, 'batch.jsonl'));
  for (const record of failure.records) batch.write(record);
  batch.close();
  const { step, microBatch, error, values } = failure;
  const report = new JsonlWriter(join(folder, 'failure.json'));
  report.write({ step, micro_batch: microBatch ?? null, error: error.message, records: values });
  report.close();
  await failure.takeAdapter?.(join(folder, 'adapter'));
  await saveModel(join(folder, 'model'));
}
