// Gradients that hold only some rows of a weight, as an input embedding's holds those of tokens that occurred. A step
// with one does what it would do with the gradient as a whole, but reads and writes only rows that ever had one: the
// moments of the others are zero, and take no memory.
#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace stepward {

// f32 zeros on the CPU whose pages take memory when they are first written to.
at::Tensor untouched_zeros(at::IntArrayRef sizes);

class RowGradient {
 public:
  // `gradient`: sparse, [rows, columns] with whole rows.
  explicit RowGradient(const at::Tensor& gradient);

  const at::Tensor& rows() const { return rows_; }      // i64 [n] on the CPU, ascending
  const at::Tensor& values() const { return values_; }  // f32 [n, columns]
  // `moved` (i64, ascending) and the gradient's rows.
  at::Tensor with_rows(const at::Tensor& moved) const;

  // For some of the rows `moved` at a time, which must take in the gradient's: calls use(index, gradient) with their
  // numbers on `values`' device and the gradient of each, f32 [some, columns].
  void each_slab(const at::Tensor& moved,
                 const std::function<void(const at::Tensor& index, const at::Tensor& gradient)>& use) const;

 private:
  at::Tensor rows_, values_;
};

// Rows of a tensor without negative numbers that are not all zero, i64 ascending on the CPU.
at::Tensor rows_in_use(const at::Tensor& tensor);

}  // namespace stepward
