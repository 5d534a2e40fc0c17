// How large micro-batches may be: chosen so that the step fits the memory that is there, or refused with what would fit,
// before anything is computed.

import { StepwardError } from '../errors.js';
import type { TrainerLike, TrainingMemory } from '../native/types.js';

/** Tokens of a micro-batch on the CPU and on a GPU where memory allows: more gains next to nothing. */
const PLENTY = { cpu: 2048, cuda: 16384 };
/** Fewer tokens than these make products slow; below them layers rather run again. */
const FEW = 512;
/** Of what is free, some is left for others. */
const SHARE = 0.9;

export type CheckpointChoice = 'auto' | 'on' | 'off';

export interface MemoryWishes {
  microBatchTokens: number | 'auto';
  checkpointLayers: CheckpointChoice;
  /** Bytes that the whole process (or the GPU) may take. Default: what is free. */
  memoryLimit?: number;
}

/** The data as far as memory goes. */
export interface DataShape {
  device: 'cpu' | 'cuda';
  /** Packed tokens of the largest step, and of the largest piece of it that cannot be cut. */
  largestStep: number;
  largestPiece: number;
  /** Share of the packed tokens that are scored. */
  scored: number;
}

export interface MemoryPlan {
  microBatchTokens: number;
  checkpointLayers: boolean;
  /** Of the process at its peak. */
  estimatedBytes: number;
}

/** Throws OUT_OF_MEMORY where nothing that was wished for fits. */
export async function planMemory(trainer: TrainerLike, wishes: MemoryWishes, data: DataShape): Promise<MemoryPlan> {
  const estimate = (tokens: number, checkpointLayers: boolean): Promise<TrainingMemory> => {
    // A piece that cannot be cut is computed whole, however small micro-batches should be.
    const most = Math.min(data.largestStep, Math.max(tokens, data.largestPiece));
    return trainer.memory({ tokens: most, scoredTokens: Math.ceil(most * data.scored), checkpointLayers });
  };
  const sizes = sizesFor(wishes.microBatchTokens, data);
  const modes = wishes.checkpointLayers === 'auto' ? [false, true] : [wishes.checkpointLayers === 'on'];
  const tried: { tokens: number; checkpointLayers: boolean; memory: TrainingMemory }[] = [];
  for (const checkpointLayers of modes) {
    for (const tokens of sizes) {
      const last = checkpointLayers === modes.at(-1);
      if (!last && tokens < FEW && tokens < (sizes[0] as number)) break;
      const memory = await estimate(tokens, checkpointLayers);
      tried.push({ tokens, checkpointLayers, memory });
      if (memory.total <= limitOf(memory, wishes)) {
        await trainer.setCheckpointLayers(checkpointLayers);
        return { microBatchTokens: tokens, checkpointLayers, estimatedBytes: memory.total };
      }
    }
  }
  const { tokens, memory } = tried[0] as (typeof tried)[number];
  const smallest = Math.max(data.largestPiece, 1);
  const alternatives = [
    { text: `--micro-batch-tokens ${smallest}`, memory: await estimate(smallest, modes[0] as boolean) },
    { text: '--checkpoint-layers on', memory: await estimate(tokens, true) },
    { text: `both`, memory: await estimate(smallest, true) },
  ].map(({ text, memory: { total } }) => `${text} (${gib(total)})`);
  throw new StepwardError(
    'OUT_OF_MEMORY',
    `training with micro-batches of ${tokens} tokens takes ${gib(memory.total)} (loaded ${gib(memory.base)}, gradients ` +
      `${gib(memory.gradients)}, optimiser ${gib(memory.optimizer)}, activations ${gib(memory.activations)}, working space ` +
      `${gib(memory.workspace)}); expected at most ${gib(limitOf(memory, wishes))}. Less is taken by ` +
      `${alternatives.join(', ')}, or by --lora-rank, which needs gradients and optimiser state for its adapters only`,
  );
}

function sizesFor(wish: number | 'auto', data: DataShape): number[] {
  if (wish !== 'auto') return [wish];
  const sizes: number[] = [];
  for (let tokens = Math.min(PLENTY[data.device], data.largestStep); ; tokens = Math.ceil(tokens / 2)) {
    sizes.push(tokens);
    if (tokens <= Math.max(data.largestPiece, 1)) return sizes;
  }
}

function limitOf(memory: TrainingMemory, wishes: MemoryWishes): number {
  if (wishes.memoryLimit !== undefined) return wishes.memoryLimit;
  return memory.available < 0 ? Number.POSITIVE_INFINITY : memory.resident + SHARE * memory.available;
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
