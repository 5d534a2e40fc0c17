// A TrainerLike whose log-probs are a table: token `id` has log-prob -cost(id) * scale, wherever it stands, and each
// apply() multiplies the scale. So a test can say by hand what any packing must give.

import type {
  Completions,
  EngineLike,
  PreferenceBatch,
  SftBatch,
  TrainerLike,
  TrainerOptions,
} from '../../src/native/types.js';

export const cost = (id: number): number => 0.25 + (id % 8) / 8;

export interface FakeTrainer extends TrainerLike {
  calls: string[];
  checkpointLayers: boolean;
  batches: PreferenceBatch[];
  sftBatches: SftBatch[];
  /** What backwardPreference was given. */
  grads: Float64Array[];
  rates: number[];
  options: TrainerOptions | undefined;
  scale: number;
}

/** An engine that only trains, and its trainer. `decay`: what apply() multiplies the scale by. `reference`: scale of the reference log-probs. */
export function fakeTrainerEngine(decay = 0.5, reference = 1): { engine: EngineLike; trainer: FakeTrainer } {
  const segmentLogprob = (batch: Completions, segment: number, scale: number): number => {
    const { tokens, offsets } = batch.forest;
    return -scale * tokens.subarray(offsets[segment], offsets[segment + 1]).reduce((sum, id) => sum + cost(id), 0);
  };
  const completions = (batch: Completions, scale: number): Float64Array =>
    Float64Array.from({ length: batch.completionOffsets.length - 1 }, (_, c) =>
      batch.completionSegments
        .subarray(batch.completionOffsets[c], batch.completionOffsets[c + 1])
        .reduce((sum, segment) => sum + segmentLogprob(batch, segment, scale), 0),
    );
  const trainer: FakeTrainer = {
    calls: [],
    checkpointLayers: false,
    batches: [],
    sftBatches: [],
    grads: [],
    rates: [],
    options: undefined,
    scale: 1,
    async accumulatePreference(batch) {
      trainer.calls.push('accumulate');
      trainer.batches.push(batch);
      const logprobs = completions(batch, trainer.scale);
      const ratio = (c: number): number => (logprobs[c] as number) - (batch.reference[c] as number);
      const pairLoss = Float32Array.from(batch.chosen, (chosen, p) => {
        const margin = batch.beta * (ratio(chosen) - ratio(batch.rejected[p] as number));
        return (batch.weight[p] as number) * Math.log1p(Math.exp(-margin));
      });
      return {
        loss: pairLoss.reduce((sum, value) => sum + value, 0) / batch.pairNorm,
        sftLoss: 0,
        completionLogprobs: logprobs,
        pairLoss,
        computedTokens: batch.forest.tokens.length,
      };
    },
    async forwardPreference(batch) {
      trainer.calls.push('forward');
      const lengths = Int32Array.from({ length: batch.completionOffsets.length - 1 }, (_, c) =>
        batch.completionSegments
          .subarray(batch.completionOffsets[c], batch.completionOffsets[c + 1])
          .reduce((sum, s) => sum + (batch.forest.offsets[s + 1] as number) - (batch.forest.offsets[s] as number), 0),
      );
      return { logprobs: completions(batch, trainer.scale), lengths, computedTokens: batch.forest.tokens.length };
    },
    async backwardPreference(grad) {
      trainer.calls.push('backward');
      trainer.grads.push(grad);
    },
    async accumulateSft(batch) {
      trainer.calls.push('accumulate');
      trainer.sftBatches.push(batch);
      let loss = 0;
      let scoredTokens = 0;
      for (const [segment, weight] of batch.segmentWeight.entries()) {
        const root = batch.forest.parents[segment] === -1 ? 1 : 0;
        const from = (batch.forest.offsets[segment] as number) + root;
        for (const id of batch.forest.tokens.subarray(from, batch.forest.offsets[segment + 1])) {
          loss += (weight * cost(id) * trainer.scale) / batch.tokenNorm;
          scoredTokens += weight;
        }
      }
      return { loss, scoredTokens, computedTokens: batch.forest.tokens.length };
    },
    async referenceLogprobs(batch) {
      trainer.calls.push('reference');
      return completions(batch, reference);
    },
    async apply(learningRate) {
      trainer.calls.push('apply');
      trainer.rates.push(learningRate);
      trainer.scale *= decay;
      return 2;
    },
    async memory(shape) {
      const activations = shape.tokens * (shape.checkpointLayers ? 1 : 10);
      const total = 100 + activations;
      return { base: 100, gradients: 0, optimizer: 0, activations, workspace: 0, total, resident: 100, available: 1e9 };
    },
    async setCheckpointLayers(on) {
      trainer.checkpointLayers = on;
    },
    async zeroGrad() {
      trainer.calls.push('zeroGrad');
    },
    async saveAdapter(directory) {
      trainer.calls.push(`saveAdapter ${directory}`);
    },
    async mergeAdapter() {
      trainer.calls.push('mergeAdapter');
    },
    async saveState(file) {
      trainer.calls.push(`saveState ${file}`);
    },
    async loadState(file) {
      trainer.calls.push(`loadState ${file}`);
    },
    async dispose() {
      trainer.calls.push('dispose');
    },
  };
  const engine = {
    info: { hiddenSize: 64, device: 'cpu', dtype: 'float32' },
    async weightsHash() {
      return `reference ${reference}`;
    },
    async createTrainer(options?: TrainerOptions) {
      trainer.options = options;
      return trainer;
    },
  } as unknown as EngineLike;
  return { engine, trainer };
}
