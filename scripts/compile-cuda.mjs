// Compiles every native/kernels/*.cu with nvcc for sm_80 and sm_90, without libtorch and without a GPU.
// Shows that the CUDA kernels compile; the objects in build/cuda-objects are not linked into anything.

import { mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { main, root, run, say, which } from './lib/machine.mjs';

const kernels = path.join(root, 'native/kernels');
const objects = path.join(root, 'build/cuda-objects');

await main(async () => {
  const nvcc = which(process.env.CUDACXX ?? 'nvcc');
  if (!nvcc) {
    say('nvcc is not on this machine: the CUDA kernels are not compiled');
    return 0;
  }
  mkdirSync(objects, { recursive: true });
  const failed = [];
  const sources = readdirSync(kernels).filter((name) => name.endsWith('.cu'));
  for (const source of sources) {
    say(`nvcc ${source}: sm_80, sm_90`);
    const status = await run(nvcc, [
      ...['-std=c++17', '-O3', '-c', path.join(kernels, source), '-o', path.join(objects, `${source}.o`)],
      ...['-I', path.join(root, 'native'), '-I', path.join(root, 'native/include'), '-DSTEPWARD_CUDA=1'],
      ...['-gencode', 'arch=compute_80,code=sm_80', '-gencode', 'arch=compute_90,code=sm_90', '--threads', '2'],
      ...['-Xcompiler', '-Wall,-fPIC'],
    ]);
    if (status !== 0) failed.push(source);
  }
  say(
    failed.length === 0
      ? `${sources.length} CUDA files compile`
      : `CUDA files that do not compile: ${failed.join(', ')}`,
  );
  return failed.length === 0 ? 0 : 1;
});
