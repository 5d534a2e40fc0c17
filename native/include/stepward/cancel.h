// Cancellation: a flag set from any thread and polled by the engine thread between tokens and micro-batches.
#pragma once

#include <atomic>
#include <memory>

#include "stepward/error.h"

namespace stepward {

class CancelFlag {
 public:
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // Throws CANCELLED once cancel() was called.
  void check() const {
    if (cancelled()) throw Error(ErrorCode::CANCELLED, "the work was cancelled");
  }

 private:
  std::atomic<bool> cancelled_{false};
};

}  // namespace stepward
