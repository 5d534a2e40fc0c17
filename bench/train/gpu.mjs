// The `train` part of bench/gpu.mjs: step trees in bfloat16 on a CUDA device, as a share of the device's matrix product rate
// and against TRL (with Liger's kernels where they are installed).

import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { median } from './report.mjs';
import { flops, llama, treeCounts, trees } from './shapes.mjs';
import { callJson, Sides } from './sides.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const LENGTHS = { prompt: 150, steps: 8, step: 60 };
const TREES_A_STEP = 4;

/** Qwen2.5-0.5B's shape, and Qwen2.5-7B's with four of its layers. */
const MODELS = {
  '0.5B': { hidden: 896, intermediate: 4864, layers: 24, heads: 14, kvHeads: 2, vocabulary: 151936, tied: true },
  '7B, 4 layers': { hidden: 3584, intermediate: 18944, layers: 4, heads: 28, kvHeads: 4, vocabulary: 152064 },
};
const TINY = { tiny: { hidden: 64, intermediate: 160, layers: 2, heads: 4, kvHeads: 2, vocabulary: 512 } };

const lastLine = (error) => String(error.message).trimEnd().split('\n').at(-1);

/** Operations a second of one large matrix product, or undefined where the Python has no torch for the device. */
function productRate(python, device, dtype) {
  try {
    return callJson(python, [path.join(here, 'matmul.py'), device, dtype]).flops;
  } catch (error) {
    console.log(`no share of the device's rate: ${lastLine(error)}`);
    return undefined;
  }
}

/** The fastest of TRL's micro-batches that fit, or undefined. */
function bestPeer(sides, model, job) {
  let best;
  for (const micro_batch of [4, 8, 16, 32]) {
    try {
      const result = sides.theirs(model, { ...job, micro_batch, gradient_checkpointing: false });
      const rate = result.pairs / result.seconds;
      if (!best || rate > best.rate) best = { rate, micro_batch, liger: result.liger };
    } catch (error) {
      console.log(`TRL, micro-batch ${micro_batch}: ${lastLine(error)}`);
    }
  }
  return best;
}

/** Seconds of an optimiser step: the first is left out, libraries set themselves up in it. */
const stepSeconds = ({ step_seconds: all }) => median(all.slice(1));

export async function train({ device, python, repeat }) {
  const small = device === 'cpu';
  const dtype = small ? 'float32' : 'bfloat16';
  const sides = new Sides({ python, threads: 4 });
  try {
    const peak = productRate(python, device, dtype);
    for (const [name, shape] of Object.entries(small ? TINY : MODELS)) {
      const model = await sides.model(llama({ ...shape, dtype }), device);
      const job = {
        device,
        dtype,
        beta: 0.1,
        learning_rate: 1e-6,
        batch_size: TREES_A_STEP * LENGTHS.steps,
        trees: trees({ ...LENGTHS, problems: 5 * TREES_A_STEP }, shape.vocabulary),
      };
      const runs = Array.from({ length: repeat }, () => sides.ours(model, job));
      const seconds = median(runs.map(stepSeconds));
      const counts = treeCounts(LENGTHS).packed;
      const rate = (TREES_A_STEP * flops(shape, counts).train) / seconds;
      const share = peak === undefined ? '' : `, ${(100 * (rate / peak)).toFixed(0)}% of a large product's rate`;
      console.log(
        `training, ${name}: ${((TREES_A_STEP * counts.tokens) / seconds).toFixed(0)} tokens/s computed ` +
          `(${((TREES_A_STEP * LENGTHS.steps) / seconds).toFixed(1)} pairs/s), ${(rate / 1e12).toFixed(1)} TFLOP/s${share}`,
      );
      const own = median(runs.map(({ pairs, seconds: all }) => pairs / all));
      const peer = bestPeer(sides, model, job);
      if (peer) {
        const label = `against TRL${peer.liger ? ' with Liger' : ''}, micro-batch ${peer.micro_batch}, references included`;
        console.log(`${label.padEnd(64)} ${(own / peer.rate).toFixed(2).padStart(7)}x`);
      }
    }
  } finally {
    sides.close();
  }
}
