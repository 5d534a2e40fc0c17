#!/usr/bin/env bash
# On a machine with a GPU: builds with CUDA against the active Python's torch (or LIBTORCH), runs the native tests, the GPU
# tests, and the micro-benchmarks (they need Google Benchmark).
set -euo pipefail
cd "$(dirname "$0")/.."

nvidia-smi --query-gpu=name,compute_cap,memory.total --format=csv,noheader
export STEPWARD_CUDA=on
[ -d node_modules ] || npm ci
npm run setup -- --tests
node dist/cli.js doctor
ctest --test-dir build/native --output-on-failure
npx vitest run test/gpu --passWithNoTests
npm run bench:native
