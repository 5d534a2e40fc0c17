#!/usr/bin/env bash
# Builds the core and the ctest programs with AddressSanitizer and UndefinedBehaviorSanitizer and runs them.
# Arguments go to ctest: `scripts/sanitize.sh -R checkpoint`.
set -euo pipefail
cd "$(dirname "$0")/.."

torch=$(node scripts/find-libtorch.mjs)
cmake -S native -B build/asan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSTEPWARD_ASAN=ON -DSTEPWARD_TESTS=ON \
  -DSTEPWARD_ADDON=OFF -DSTEPWARD_CUDA=OFF -DSTEPWARD_TORCH="$torch"
cmake --build build/asan --parallel "$(nproc)"
# libtorch itself is not instrumented and keeps allocations until exit, which the leak check would report.
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 ctest --test-dir build/asan --output-on-failure "$@"
