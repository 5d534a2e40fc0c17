// All threads of the compute pool on one piece of work at once: one parallel region for a whole forward pass, whose stages
// are shared out part by part and separated by barriers. A pass has hundreds of stages of some microseconds; a region
// for each would cost more than the work.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <ATen/Parallel.h>
#include <omp.h>

namespace stepward {

class Team {
 public:
  // Runs work(team) on every thread of the pool, or on this one alone where a stage of about `stage_flops` operations
  // is not worth a barrier. It must not throw.
  template <typename Work>
  static void run(double stage_flops, const Work& work) {
    Team team;
    const int threads = stage_flops < kLeastFlops ? 1 : at::get_num_threads();
    if (threads == 1) return work(team);
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
      team.size_ = omp_get_num_threads();
      work(team);
    }
  }

  // Calls body(begin, end) for pieces of at most `grain` of [0, count), each by whichever thread is free, and returns on
  // all threads once all are done. Every thread must make the same calls.
  template <typename Body>
  void share(int64_t count, int64_t grain, const Body& body) {
    for (int64_t begin; (begin = next_.fetch_add(grain, std::memory_order_relaxed)) < count;) {
      body(begin, begin + grain < count ? begin + grain : count);
    }
    barrier();
  }

  // The same in `pieces` whose sizes differ by at most one, larger ones first: threads of equal speed end together where their
  // number divides that of the pieces.
  template <typename Body>
  void share_evenly(int64_t count, int64_t pieces, const Body& body) {
    const int64_t size = count / pieces, larger = count % pieces;
    share(std::min(pieces, count), 1, [&](int64_t piece, int64_t) {
      const int64_t begin = piece * size + std::min(piece, larger);
      body(begin, begin + size + (piece < larger ? 1 : 0));
    });
  }

  int size() const { return size_; }

 private:
  Team() = default;

  void barrier() {
    const uint32_t generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
      generation_.notify_all();
      return;
    }
    // A stage's threads end within microseconds of each other: a short watch (tens of microseconds) saves a trip through
    // the kernel. A thread whose fellows have lost their core sleeps.
    for (int i = 0; i < kWatch; ++i) {
      if (generation_.load(std::memory_order_acquire) != generation) return;
#ifdef __x86_64__
      __builtin_ia32_pause();
#endif
    }
    while (generation_.load(std::memory_order_acquire) == generation) generation_.wait(generation);
  }

  static constexpr int kWatch = 2000;
  static constexpr double kLeastFlops = 2e5;  // some microseconds of one core

  int size_ = 1;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

}  // namespace stepward
