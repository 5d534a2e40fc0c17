// Memory straight from the system, on huge pages where it gives them: large buffers that are written soon would else
// cost a page fault for every 4 KiB.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

namespace stepward {

// Zeros that take memory as they are written to; take them back with munmap. Throws std::bad_alloc.
inline void* map_pages(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

// The same on huge pages.
inline void* map_huge_pages(size_t bytes) {
  void* memory = map_pages(bytes);
  madvise(memory, bytes, MADV_HUGEPAGE);  // advice: where it is not taken all works as well
  return memory;
}

}  // namespace stepward
