// Memory of large CPU tensors while something is trained. A step takes and gives back the same sizes over and over: the C
// library would either fault in fresh pages for each of them or scatter them over a heap that grows to twice what is in
// use. Here memory that was given back is joined with its neighbours and given out again, and what is mapped stays within a
// thirty-second of what was once in use at the same time, so that a training's peak can be said beforehand.
#pragma once

namespace stepward {

// While one lives, CPU tensors of at least 256 KiB are allocated so, in the whole process. Tensors may outlive it.
class TensorMemory {
 public:
  TensorMemory();
  ~TensorMemory();
  TensorMemory(const TensorMemory&) = delete;
};

}  // namespace stepward
