// How large micro-batches may be: chosen so that the step fits the memory that is there, or refused with what would fit,
// before anything is computed.

import { StepwardError } from '../errors.js';
import type { ForestData, MicroBatchShape, TrainerLike, TrainingMemory } from '../native/types.js';
import type { PlannedStep, StepPlan } from './steps.js';

/** Tokens of a micro-batch on the CPU and on a GPU where memory allows: more gains next to nothing, unless it cuts trees. */
const PLENTY = { cpu: 2048, cuda: 16384 };
/** As many times that where a tree would be cut, and a share of tokens that is worth doubling it: its trunk is repeated. */
const MOST_TIMES = 16;
const WORTH_DOUBLING = 0.9;
/** Fewer tokens than these make products slow; below them layers rather run again. */
const FEW = 512;
/** Of what is free, some is left for others. */
const SHARE = 0.9;
/** Steps that are packed to see how large their micro-batches are: this many with the most tokens, and with the longest item. */
const SAMPLED_STEPS = 16;

export const CHECKPOINTS = ['auto', 'on', 'off'] as const;
export type CheckpointChoice = (typeof CHECKPOINTS)[number];

export interface MemoryWishes {
  microBatchTokens: number | 'auto';
  checkpointLayers: CheckpointChoice;
  /** Bytes that the whole process (or the GPU) may take. Default: what is free. */
  memoryLimit?: number;
}

/** A micro-batch as far as memory goes. */
export type PackedSize = Pick<MicroBatchShape, 'tokens' | 'scoredTokens' | 'pathTokens' | 'paths'>;

/** The most of everything in a micro-batch of the data under a budget of tokens, and the most tokens of an optimiser step. */
export type LargestBatch = (budget: number) => PackedSize & { stepTokens: number };

export interface MemoryPlan {
  microBatchTokens: number;
  checkpointLayers: boolean;
  /** Of the process at its peak. */
  estimatedBytes: number;
}

/** `pack`: the micro-batches of a step; `lengths`: of each of its items, numbers that grow with their tokens. */
export function largestBatchOf(
  plan: StepPlan,
  lengths: (step: PlannedStep) => number[],
  pack: (step: PlannedStep, budget: number) => PackedSize[],
): LargestBatch {
  const epoch: { step: PlannedStep; all: number; longest: number }[] = [];
  for (const step of plan.steps()) {
    if (step.index >= plan.perEpoch) break;
    const items = lengths(step);
    epoch.push({
      step,
      all: items.reduce((sum, length) => sum + length, 0),
      longest: items.reduce((most, length) => Math.max(most, length), 0),
    });
  }
  const most = (by: 'all' | 'longest') => epoch.toSorted((a, b) => b[by] - a[by]).slice(0, SAMPLED_STEPS);
  // One item that is longer than a budget is a micro-batch of its own, in however small a step.
  const sampled = [...new Set([...most('all'), ...most('longest')])];
  const known = new Map<number, ReturnType<LargestBatch>>();
  return (budget) => {
    const found = known.get(budget);
    if (found) return found;
    const largest = { tokens: 0, scoredTokens: 0, pathTokens: 0, paths: 0, stepTokens: 0 };
    for (const { step } of sampled) {
      const batches = pack(step, budget);
      const stepTokens = batches.reduce((sum, { tokens }) => sum + tokens, 0);
      largest.stepTokens = Math.max(largest.stepTokens, stepTokens);
      for (const size of batches) {
        for (const key of ['tokens', 'scoredTokens', 'pathTokens', 'paths'] as const)
          largest[key] = Math.max(largest[key], size[key]);
      }
    }
    known.set(budget, largest);
    return largest;
  };
}

/** Its tokens, and those of its paths from the roots to all leaves. */
export function sizeOfForest({ tokens, offsets, parents }: ForestData): Omit<PackedSize, 'scoredTokens'> {
  const isParent = new Set(parents);
  const ends: number[] = [];
  let pathTokens = 0;
  let paths = 0;
  for (const [segment, parent] of parents.entries()) {
    const length = (offsets[segment + 1] as number) - (offsets[segment] as number);
    const end = (parent < 0 ? 0 : (ends[parent] as number)) + length;
    ends.push(end);
    if (isParent.has(segment)) continue;
    pathTokens += end;
    paths++;
  }
  return { tokens: tokens.length, pathTokens, paths };
}

/** Throws OUT_OF_MEMORY where nothing that was wished for fits. */
export async function planMemory(
  trainer: TrainerLike,
  wishes: MemoryWishes,
  device: string,
  largest: LargestBatch,
): Promise<MemoryPlan> {
  const estimate = (budget: number, checkpointLayers: boolean): Promise<TrainingMemory> =>
    trainer.memory({ ...largest(budget), checkpointLayers });
  const first = wishes.microBatchTokens === 'auto' ? plentyOf(device, largest) : wishes.microBatchTokens;
  const modes = wishes.checkpointLayers === 'auto' ? [false, true] : [wishes.checkpointLayers === 'on'];
  for (const checkpointLayers of modes) {
    for (let tokens = first; ; tokens = Math.ceil(tokens / 2)) {
      if (!checkpointLayers && modes.length > 1 && tokens < FEW && tokens < first) break;
      const memory = await estimate(tokens, checkpointLayers);
      if (memory.total <= limitOf(memory, wishes)) {
        await trainer.setCheckpointLayers(checkpointLayers);
        return { microBatchTokens: tokens, checkpointLayers, estimatedBytes: memory.total };
      }
      if (wishes.microBatchTokens !== 'auto' || tokens <= pieceOf(largest)) break;
    }
  }
  const wanted = await estimate(first, modes[0] as boolean);
  const piece = pieceOf(largest);
  const alternatives: string[] = [];
  for (const [text, tokens, checkpointLayers] of [
    [`--micro-batch-tokens ${piece}`, piece, modes[0] as boolean],
    ['--checkpoint-layers on', first, true],
    ['both', piece, true],
  ] as const) {
    alternatives.push(`${text} (${gib((await estimate(tokens, checkpointLayers)).total)})`);
  }
  throw new StepwardError(
    'OUT_OF_MEMORY',
    `training with micro-batches of ${largest(first).tokens} tokens takes ${gib(wanted.total)} (loaded ` +
      `${gib(wanted.base)}, gradients ${gib(wanted.gradients)}, optimiser ${gib(wanted.optimizer)}, activations ` +
      `${gib(wanted.activations)}, working space ${gib(wanted.workspace)}); expected at most ` +
      `${gib(limitOf(wanted, wishes))}. Less is taken by ${alternatives.join(', ')}, or by --lora-rank, which needs ` +
      'gradients and optimiser state for its adapters only',
  );
}

function plentyOf(device: string, largest: LargestBatch): number {
  const plenty = device.startsWith('cuda') ? PLENTY.cuda : PLENTY.cpu;
  let tokens = plenty;
  while (tokens < MOST_TIMES * plenty && largest(2 * tokens).stepTokens < WORTH_DOUBLING * largest(tokens).stepTokens) {
    tokens *= 2;
  }
  return tokens;
}

/** Tokens of the largest item: it is computed whole, however small micro-batches should be. */
function pieceOf(largest: LargestBatch): number {
  return Math.max(largest(1).tokens, 1);
}

function limitOf(memory: TrainingMemory, wishes: MemoryWishes): number {
  if (wishes.memoryLimit !== undefined) return wishes.memoryLimit;
  return memory.available < 0 ? Number.POSITIVE_INFINITY : memory.resident + SHARE * memory.available;
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
