// One optimiser step against torch::optim::AdamW, by a native program on the same tensors.

import path from 'node:path';
import { buildNative } from '../../../scripts/build-native.mjs';
import { withLock } from '../../../scripts/lib/lock.mjs';
import { root } from '../../../scripts/lib/machine.mjs';
import { callJson } from '../sides.mjs';

export async function optimizer(bench) {
  await withLock(() => buildNative({ bench: true }));
  const program = path.join(root, 'build/native/bench/optimizer_ratio');
  const sizes = bench.options.shape === 'tiny' ? ['tiny'] : ['20m', '135m'];
  for (const size of sizes) {
    const result = callJson(program, [size, bench.options.threads, 3 * bench.options.repeat + 2], {
      threads: bench.options.threads,
      env: { OMP_WAIT_POLICY: 'passive' }, // as the addon sets it
    });
    bench.keep('optimizer', result);
    const ms = (seconds) => `${(1000 * seconds).toFixed(1)} ms`;
    console.log(
      `\noptimizer, ${(result.parameters / 1e6).toFixed(1)}M parameters: a step with its gradient norm ${ms(result.stepward)}; ` +
        `torch::optim::AdamW ${ms(result.torch)}: ${(result.torch / result.stepward).toFixed(2)}x; with clip_grad_norm_ ` +
        `${ms(result.torch_clipped)}: ${(result.torch_clipped / result.stepward).toFixed(2)}x; weights differ by at most ` +
        `${result.difference.toExponential(1)}`,
    );
  }
}
