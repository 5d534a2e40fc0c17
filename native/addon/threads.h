// How many compute threads there are. One number for the whole process, applied by each engine thread before a job,
// because OpenMP keeps its thread count per calling thread.
#pragma once

namespace stepward::addon {

// OMP_NUM_THREADS where it is set, else what this process may use: the smaller of the CPU affinity mask and the
// cgroup's CPU quota. libtorch's own default counts the machine's cores and overloads a container.
int default_threads();

inline constexpr int kMaxThreads = 1024;

int threads();
// 1 to kMaxThreads; takes effect with each engine's next job.
void set_threads(int count);

// Makes the calling thread compute with threads() threads.
void apply_threads();

}  // namespace stepward::addon
