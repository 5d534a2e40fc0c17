// Every thread takes its own columns of the result. For a stretch of the inner dimension it packs them into panels, and
// blocks of rows that fit the second-level cache pass over those.
#include "core/train/products.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <ATen/Parallel.h>

#include "kernels/panels.h"

namespace stepward {
namespace {

using kernels::kPanel;
using kernels::PanelMode;

constexpr int64_t kInner = 512;              // of the inner dimension at once; longer sums would also lose precision
constexpr int64_t kRowBytes = 320 << 10;     // of the rows that pass over the panels
constexpr int64_t kPanelBytes = 4 << 20;     // of the panels
constexpr double kLeastFlops = 4e5;          // worth a thread of its own

enum class Left { rows, columns };           // a row of the result reads a row, or a column, of the left operand
enum class Right { transposed, natural };    // [n, k] or [k, n]

struct Shape {
  int64_t rows, inner, columns;
};

// Columns [first, first + count) of the right operand, inner [from, from + inner), as one panel.
void pack(Right form, const float* w, const Shape& s, int64_t first, int64_t count, int64_t from, int64_t inner,
          float* panel) {
  if (form == Right::transposed) {
    kernels::pack_panels(w + first * s.inner + from, s.inner, count, inner, panel);
    return;
  }
  for (int64_t i = 0; i < inner; ++i) {
    std::memcpy(panel + i * kPanel, w + (from + i) * s.columns + first, static_cast<size_t>(count) * sizeof(float));
    if (count < kPanel) std::fill_n(panel + i * kPanel + count, kPanel - count, 0.0f);
  }
}

// One thread's share: panels [begin, end).
class Share {
 public:
  Share(Left left, const float* x, Right right, const float* w, const Shape& shape, float* y)
      : left_(left), right_(right), x_(x), w_(w), shape_(shape), y_(y) {}

  void run(int64_t begin, int64_t end, bool add) {
    const int64_t inner = std::min(shape_.inner, kInner);
    const int64_t at_once = std::max<int64_t>(1, kPanelBytes / (inner * kPanel * 4));
    for (int64_t p = begin; p < end; p += at_once) {
      for (int64_t from = 0; from < shape_.inner; from += kInner) {
        run_panels(p, std::min(end, p + at_once), from, std::min(kInner, shape_.inner - from),
                   add || from > 0 ? PanelMode::add : PanelMode::store);
      }
    }
  }

 private:
  void run_panels(int64_t begin, int64_t end, int64_t from, int64_t inner, PanelMode mode) {
    thread_local std::vector<float> panels, rows, edge;
    const auto reach = [](std::vector<float>& buffer, int64_t size) {
      if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
    };
    reach(panels, (end - begin) * inner * kPanel);
    for (int64_t p = begin; p < end; ++p) {
      pack(right_, w_, shape_, p * kPanel, std::min(kPanel, shape_.columns - p * kPanel), from, inner,
           panels.data() + (p - begin) * inner * kPanel);
    }
    const kernels::PanelOps& ops = kernels::panel_ops();
    const int64_t whole = std::min(end, shape_.columns / kPanel);  // panels that end within the result
    const int64_t block = std::max<int64_t>(12, kRowBytes / (inner * 4) / 12 * 12);
    for (int64_t r = 0; r < shape_.rows; r += block) {
      const int64_t count = std::min(block, shape_.rows - r);
      const float* a = x_ + r * shape_.inner + from;
      int64_t lda = shape_.inner;
      if (left_ == Left::columns) {
        // Close together: rows that lie a power of two apart would share few lines of the cache.
        reach(rows, inner * count);
        for (int64_t i = 0; i < inner; ++i)
          std::memcpy(rows.data() + i * count, x_ + (from + i) * shape_.rows + r,
                      static_cast<size_t>(count) * sizeof(float));
        a = rows.data();
        lda = count;
      }
      const auto multiply = left_ == Left::rows ? ops.multiply : ops.multiply_transposed;
      float* c = y_ + r * shape_.columns;
      multiply(a, lda, count, panels.data(), kPanel, inner * kPanel, whole - begin, inner, c + begin * kPanel,
               shape_.columns, mode);
      if (whole == end) continue;
      // The last panel reaches beyond the result's columns.
      const int64_t columns = shape_.columns - whole * kPanel;
      reach(edge, count * kPanel);
      multiply(a, lda, count, panels.data() + (whole - begin) * inner * kPanel, kPanel, 0, 1, inner, edge.data(),
               kPanel, PanelMode::store);
      for (int64_t i = 0; i < count; ++i) {
        float* to = c + i * shape_.columns + whole * kPanel;
        for (int64_t j = 0; j < columns; ++j)
          to[j] = mode == PanelMode::add ? to[j] + edge[i * kPanel + j] : edge[i * kPanel + j];
      }
    }
  }

  const Left left_;
  const Right right_;
  const float *x_, *w_;
  const Shape shape_;
  float* y_;
};

void multiply(Left left, const float* x, Right right, const float* w, const Shape& shape, float* y, bool add) {
  if (shape.rows == 0 || shape.columns == 0) return;
  if (shape.inner == 0) {
    if (!add) std::fill_n(y, shape.rows * shape.columns, 0.0f);
    return;
  }
  const int64_t panels = kernels::panels_of(shape.columns);
  const double flops = 2.0 * static_cast<double>(shape.rows * shape.inner) * kPanel;
  const int64_t grain = std::max<int64_t>(1, static_cast<int64_t>(kLeastFlops / flops));
  at::parallel_for(0, panels, grain,
                   [&](int64_t begin, int64_t end) { Share(left, x, right, w, shape, y).run(begin, end, add); });
}

}  // namespace

void product_transposed_weight(const float* x, const float* w, int64_t rows, int64_t k, int64_t n, float* y,
                               bool add) {
  multiply(Left::rows, x, Right::transposed, w, {rows, k, n}, y, add);
}

void product(const float* x, const float* w, int64_t rows, int64_t k, int64_t n, float* y, bool add) {
  multiply(Left::rows, x, Right::natural, w, {rows, k, n}, y, add);
}

void product_over_rows(const float* x, const float* w, int64_t k, int64_t m, int64_t n, float* y, bool add) {
  multiply(Left::columns, x, Right::natural, w, {m, k, n}, y, add);
}

}  // namespace stepward
