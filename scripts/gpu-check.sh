#!/usr/bin/env bash
# On a machine with a GPU: builds with CUDA against the active Python's torch (or LIBTORCH), runs the native tests (the
# CUDA twins among them) and the GPU tests of the addon, and prints the ratios of bench/gpu.mjs for sampling and training
# (transformers, TRL and Liger are measured where the active Python has them) and the micro-benchmarks where Google
# Benchmark is installed. Exits with 1 where something failed.
set -euo pipefail
cd "$(dirname "$0")/.."

nvidia-smi --query-gpu=name,compute_cap,memory.total --format=csv,noheader
command -v "${CUDACXX:-nvcc}" || { echo "nvcc is not on PATH: put the CUDA toolkit's bin folder there" >&2; exit 1; }
export STEPWARD_CUDA=on
[ -d node_modules ] || npm ci
npm run setup -- --tests
node dist/cli.js doctor

failed=0
# Skipped twins would look like passed ones: their programs are run again and must not have skipped.
ctest --test-dir build/native --output-on-failure -j1 || failed=1
for program in build/native/test/cuda_*_test; do
  "$program" --gtest_brief=1 | tee build/gpu-check.log || failed=1
  if grep -q SKIPPED build/gpu-check.log; then echo "$program skipped its tests: no usable CUDA device" >&2; failed=1; fi
done
npx vitest run test/gpu || failed=1
# Once more with every decode step launched kernel by kernel.
STEPWARD_CUDA_GRAPHS=off npx vitest run test/gpu || failed=1

node bench/gpu.mjs || failed=1
npm run bench:native || echo "no micro-benchmarks"
exit "$failed"
