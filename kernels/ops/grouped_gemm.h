// Grouped products on tensor-core formats, and the way into and out of those formats. Rows are
// sorted by expert; each expert has a matrix of its own.
#pragma once

#include <cstdint>
#include <span>

#include "common/tensor/tensor_view.h"
#include "kernels/ops/linear.h"

namespace choir {

// y[r] = x[r] · w_eᵀ for rows r of expert e: offsets[e] <= r < offsets[e+1]. Sums in FP32, K
// ascending in a fixed pattern: a row's bits do not depend on the others.
// bf16: x and w bf16. f8: x and w E4M3; the sum over each 128 columns of K is taken by itself, then
// weighted by x_scale · w_scale and added, K blocks ascending (arXiv 2412.19437, 3.3).
struct GroupedGemmArgs {
  TensorView x;                      // [R, K] bf16 or f8
  TensorView x_scale;                // f8: [R, ceil(K / 128)] f32; else empty
  TensorView w;                      // [E * N, K]: the experts' matrices one below the other
  TensorView w_scale;                // f8: [E * ceil(N / 128), ceil(K / 128)] f32; else empty
  TensorView y;                      // [R, N] f32 or bf16
  std::span<const int32_t> offsets;  // [E + 1], ascending, last == R; host memory
  // Masked form, instead of offsets: expert e has counts[e] rows from e * (R / E) on, which only
  // the device knows; the others are not computed. Rows an expert may have by far most often: tiles
  // are chosen by it, no bit depends on it.
  TensorView counts;  // [E] i32, each at most R / E; or empty
  int64_t rows_expected = 0;

  int64_t num_experts() const {
    return counts.empty() ? static_cast<int64_t>(offsets.size()) - 1 : counts.dim(0);
  }
  // Masked: as if all rows were there.
  int64_t Flops() const { return 2 * x.dim(0) * y.dim(1) * x.dim(1); }
  int64_t Bytes() const {
    int64_t active = counts.empty() ? 0 : counts.dim(0);
    for (size_t e = 0; e + 1 < offsets.size(); ++e) active += offsets[e + 1] > offsets[e];
    return static_cast<int64_t>(x.num_bytes() + y.num_bytes()) +
           active * y.dim(1) * BytesOf(w.dtype(), x.dim(1));
  }
};

// y = x / s in E4M3, s = max(|x| over 128 columns, 1e-4) / 448 (DeepSeek-V3's own inference code).
struct QuantizeF8Args {
  TensorView x;        // [T, K] f32 or bf16
  TensorView y;        // [T, K] f8
  TensorView y_scale;  // [T, ceil(K / 128)] f32
  // Elements between rows of y and of y_scale; 0: their widths.
  int64_t y_stride = 0, y_scale_stride = 0;
  int64_t Flops() const { return 3 * x.num_elements(); }
  int64_t Bytes() const {
    return static_cast<int64_t>(x.num_bytes() + y.num_bytes() + y_scale.num_bytes());
  }
};

// y = w · scale, rounded once: weights of 8 or 4 bits for kernels that want 16, and rows that
// QuantizeF8 made.
struct DequantizeArgs {
  TensorView w;        // [N, K] in any format of LinearArgs::w
  TensorView w_scale;  // as LinearArgs::w_scale; f8 also [N, ceil(K/128)] f32: each row has its own
  TensorView y;        // [N, K] f32 or bf16
  bool scale_of_rows() const { return w.dtype() == DType::kF8E4M3 && w_scale.dim(0) == w.dim(0); }
  int64_t Flops() const { return w.num_elements(); }
  int64_t Bytes() const { return static_cast<int64_t>(w.num_bytes() + y.num_bytes()); }
};

}  // namespace choir
