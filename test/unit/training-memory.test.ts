import { describe, expect, it } from 'vitest';
import type { MicroBatchShape, TrainerLike, TrainingMemory } from '../../src/native/types.js';
import { type LargestBatch, largestBatchOf, planMemory, sizeOfForest } from '../../src/training/memory.js';
import type { PlannedStep } from '../../src/training/steps.js';

const MIB = 2 ** 20;

/** 100 MiB loaded, 50 of gradients, 100 of state; 1 MiB of activations a token, a tenth of it with checkpoints. */
function trainerWith(availableMiB: number): TrainerLike & { on?: boolean; asked: MicroBatchShape[] } {
  const trainer = {
    asked: [] as MicroBatchShape[],
    on: undefined as boolean | undefined,
    async memory(shape: MicroBatchShape): Promise<TrainingMemory> {
      trainer.asked.push(shape);
      const activations = shape.tokens * (shape.checkpointLayers ? 0.1 : 1) * MIB;
      const parts = { base: 100 * MIB, gradients: 50 * MIB, optimizer: 100 * MIB, activations, workspace: 0 };
      const total = Object.values(parts).reduce((sum, part) => sum + part, 0);
      return { ...parts, total, resident: 200 * MIB, available: availableMiB < 0 ? -1 : availableMiB * MIB };
    },
    async setCheckpointLayers(on: boolean) {
      trainer.on = on;
    },
  };
  return trainer as unknown as TrainerLike & { on?: boolean; asked: MicroBatchShape[] };
}

/** Much data in pieces of 100 tokens, half of them scored. */
const largest: LargestBatch = (budget) => {
  const tokens = Math.max(100, Math.min(10_000, budget));
  return { tokens, scoredTokens: tokens / 2, pathTokens: 3 * tokens, paths: 9, stepTokens: 2 * tokens };
};
const auto = { microBatchTokens: 'auto', checkpointLayers: 'auto' } as const;

describe('planMemory', () => {
  it('takes the largest size worth having where there is room', async () => {
    const trainer = trainerWith(100_000);
    const plan = await planMemory(trainer, auto, 'cpu', largest);
    expect(plan).toEqual({ microBatchTokens: 2048, checkpointLayers: false, estimatedBytes: 2298 * MIB });
    expect(trainer.asked[0]).toEqual({
      tokens: 2048,
      scoredTokens: 1024,
      pathTokens: 6144,
      paths: 9,
      stepTokens: 4096,
      checkpointLayers: false,
    });
    expect(await planMemory(trainerWith(-1), auto, 'cuda:0', largest)).toMatchObject({ microBatchTokens: 16384 });
  });

  it('takes more where trees would be cut, whose trunks are then computed again and again', async () => {
    const cutBelow =
      (whole: number): LargestBatch =>
      (budget) => ({ ...largest(budget), stepTokens: Math.max(whole, (whole * whole) / budget) });
    for (const [whole, taken] of [
      [1000, 2048],
      [5000, 8192],
      [1e6, 32768],
    ] as const) {
      expect(await planMemory(trainerWith(-1), auto, 'cpu', cutBelow(whole))).toMatchObject({
        microBatchTokens: taken,
      });
    }
    // Not where there is no room for it.
    expect(await planMemory(trainerWith(3000), auto, 'cpu', cutBelow(5000))).toMatchObject({ microBatchTokens: 2048 });
  });

  it('halves micro-batches before it lets layers run again', async () => {
    // 200 resident + 0.9 * 1200 = 1280 MiB: 250 + 1024 fits.
    expect(await planMemory(trainerWith(1200), auto, 'cpu', largest)).toMatchObject({
      microBatchTokens: 1024,
      checkpointLayers: false,
    });
    const tight = trainerWith(600); // 740 MiB: not even 512 tokens without checkpoints
    expect(await planMemory(tight, auto, 'cpu', largest)).toMatchObject({
      microBatchTokens: 2048,
      checkpointLayers: true,
    });
    expect(tight.on).toBe(true);
  });

  it('keeps to what was asked for, and counts an item that cannot be cut whole', async () => {
    const trainer = trainerWith(100_000);
    const wishes = { microBatchTokens: 64, checkpointLayers: 'off' } as const;
    expect(await planMemory(trainer, wishes, 'cpu', largest)).toMatchObject({
      microBatchTokens: 64,
      checkpointLayers: false,
    });
    expect(trainer.asked).toEqual([
      { tokens: 100, scoredTokens: 50, pathTokens: 300, paths: 9, stepTokens: 200, checkpointLayers: false },
    ]);
    expect(trainer.on).toBe(false);
  });

  it('says what is needed, what there is and what would fit', async () => {
    const wishes = { microBatchTokens: 4096, checkpointLayers: 'off', memoryLimit: 1000 * MIB } as const;
    await expect(planMemory(trainerWith(1), wishes, 'cpu', largest)).rejects.toMatchObject({
      code: 'OUT_OF_MEMORY',
      message:
        'training with micro-batches of 4096 tokens takes 4.24 GiB (loaded 0.10 GiB, gradients 0.05 GiB, optimiser 0.10 GiB, activations 4.00 GiB, working space 0.00 GiB); expected at most 0.98 GiB. Less is taken by --micro-batch-tokens 100 (0.34 GiB), --checkpoint-layers on (0.64 GiB), both (0.25 GiB), or by --lora-rank, which needs gradients and optimiser state for its adapters only',
    });
  });

  it('refuses where nothing fits', async () => {
    const wishes = { ...auto, memoryLimit: 200 * MIB };
    await expect(planMemory(trainerWith(1), wishes, 'cpu', largest)).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' });
  });
});

describe('largestBatchOf', () => {
  it("packs the first epoch's largest steps and takes their largest micro-batch", () => {
    const step = (index: number): PlannedStep => ({ index, epoch: 1, learningRate: 1, items: [index] });
    const packed: number[] = [];
    const plan = {
      total: 100,
      perEpoch: 30,
      *steps() {
        for (let index = 0; index < 100; index++) yield step(index);
      },
    };
    const of = largestBatchOf(
      plan,
      // Step 3 is small, and one of its items is the longest.
      ({ index }) => (index === 3 ? [50] : Array(100).fill(index)),
      ({ index }, budget) => {
        packed.push(index);
        return [
          { tokens: Math.min(budget, index), scoredTokens: 1, pathTokens: 9, paths: 2 },
          { tokens: index === 3 ? 50 : 2, scoredTokens: 3, pathTokens: 7, paths: 4 },
        ];
      },
    );
    expect(of(1000)).toEqual({ tokens: 50, scoredTokens: 3, pathTokens: 9, paths: 4, stepTokens: 53 });
    // The sixteen with the most tokens, and those with the longest item: step 3 and again the largest.
    expect(packed.toSorted((a, b) => a - b)).toEqual([3, ...Array.from({ length: 16 }, (_, i) => 14 + i)]);
    expect(of(7)).toEqual({ tokens: 50, scoredTokens: 3, pathTokens: 9, paths: 4, stepTokens: 53 });
  });
});

describe('sizeOfForest', () => {
  it('counts shared tokens once, and once for each path', () => {
    // A prompt of 5, a step of 3 and its sibling of 2, after the step two more of 1 and 4; and a tree of 6.
    const offsets = Int32Array.of(0, 5, 8, 10, 11, 15, 21);
    const parents = Int32Array.of(-1, 0, 0, 1, 1, -1);
    const size = sizeOfForest({ tokens: new Int32Array(21), offsets, parents });
    expect(size).toEqual({ tokens: 21, pathTokens: 7 + 9 + 12 + 6, paths: 4 });
  });
});
