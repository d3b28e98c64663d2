// y = x · wᵀ (+ bias) (+ y). The workhorse: projections, dense FFN, router logits, head.
#pragma once

#include <cstdint>
#include <span>

#include "common/tensor/tensor_view.h"
#include "kernels/ops/rounded_rows.h"

namespace choir {

// How products are formed. kF32: x as it is, weights widened and scaled in FP32, FP32 FMA. kBF16: x
// rounded to bf16 first, FP32 accumulation; a kernel set may round scaled weights to bf16 too,
// where its instructions want that. Either way the order of the sum over K is fixed per output
// element: bits do not depend on T, on the other rows, or on the number of threads.
enum class Compute : uint8_t { kF32, kBF16 };

// Columns and rows of a block that shares a scale: f8_e4m3, as DeepSeek-V3 publishes it (arXiv
// 2412.19437, 3.3); f4_e2m1 as MXFP4 of the OCP Microscaling Formats v1.0.
inline constexpr int64_t kF8Block = 128;
inline constexpr int64_t kF4Block = 32;

struct LinearArgs {
  TensorView x;  // [T, K] f32
  TensorView w;  // [N, K] f32, bf16, f16, f8_e4m3 or f4_e2m1
  // f8: [ceil(N/128), ceil(K/128)] f32, a factor for each block; f4: [N, K/32] u8, 2^(s - 127) for
  // 32 columns, which K is a multiple of; else empty.
  TensorView w_scale;
  TensorView bias;  // [N] f32 or bf16, or empty
  TensorView y;     // [T, N] f32
  Compute compute = Compute::kF32;
  bool accumulate = false;  // y += instead of y =
  RoundedRows rounded;      // x once more, or empty

  int64_t Flops() const { return 2 * x.dim(0) * w.dim(0) * w.dim(1); }
  int64_t Bytes() const {
    const size_t scale_bytes = w_scale.empty() ? 0 : w_scale.num_bytes();
    return static_cast<int64_t>(x.num_bytes() + w.num_bytes() + scale_bytes + y.num_bytes());
  }
};

// Products of the same rows, each with its own weights, bias and y: a kernel set may compute those
// of one format in one go. Bits are Linear's. x and `rounded` are the same in all parts.
struct MergedLinearArgs {
  std::span<const LinearArgs> parts;  // one at least

  int64_t Flops() const {
    int64_t flops = 0;
    for (const LinearArgs& part : parts) flops += part.Flops();
    return flops;
  }
  int64_t Bytes() const {  // x once
    const auto x = static_cast<int64_t>(parts[0].x.num_bytes());
    int64_t bytes = x;
    for (const LinearArgs& part : parts) bytes += part.Bytes() - x;
    return bytes;
  }
};

// Per head h: y[t,h,:] = x[t,h,:] · w[h] (transpose: · w[h]ᵀ). The absorbed halves of MLA's kv_b.
struct HeadProjectArgs {
  TensorView x;                // [T, heads, A] f32, rows of x_token_stride, heads of x_head_stride
  int64_t x_token_stride = 0;  // elements; 0: heads * A
  int64_t x_head_stride = 0;   // elements; 0: A
  TensorView w;  // first head's matrix: [A, B] (or [B, A] with transpose); f32, bf16 or f16
  int64_t w_head_stride = 0;  // elements from one head's matrix to the next
  bool transpose = false;
  TensorView y;  // [T, heads, B] f32
  Compute compute = Compute::kF32;
  RoundedRows rounded;  // y once more as [T, heads * B], or empty

  int64_t Flops() const { return 2 * x.num_elements() * y.dim(2); }
  int64_t Bytes() const {
    return static_cast<int64_t>(x.num_bytes() + y.num_bytes() +
                                static_cast<size_t>(x.dim(1)) * w.num_bytes());
  }
};

}  // namespace choir
