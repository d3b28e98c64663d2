// y = x · wᵀ (+ bias) (+ y). The workhorse: projections, dense FFN, router logits, head.
#pragma once

#include <cstdint>

#include "common/tensor/tensor_view.h"

namespace choir {

// How products are formed. kF32: x as it is, bf16 weights widened (exact), FP32 FMA. kBF16: x
// rounded to bf16 first, FP32 accumulation. Either way the order of the sum over K is fixed per
// output element: bits do not depend on T, on the other rows, or on the number of threads.
enum class Compute : uint8_t { kF32, kBF16 };

struct LinearArgs {
  TensorView x;     // [T, K] f32
  TensorView w;     // [N, K] f32 or bf16
  TensorView bias;  // [N] f32 or bf16, or empty
  TensorView y;     // [T, N] f32
  Compute compute = Compute::kF32;
  bool accumulate = false;  // y += instead of y =

  int64_t Flops() const { return 2 * x.dim(0) * w.dim(0) * w.dim(1); }
  int64_t Bytes() const {
    return static_cast<int64_t>(x.num_bytes() + w.num_bytes() + y.num_bytes());
  }
};

// Per head h: y[t,h,:] = x[t,h,:] · w[h] (transpose: · w[h]ᵀ). The absorbed halves of MLA's kv_b.
struct HeadProjectArgs {
  TensorView x;                // [T, heads, A] f32, rows of x_token_stride, heads of x_head_stride
  int64_t x_token_stride = 0;  // elements; 0: heads * A
  int64_t x_head_stride = 0;   // elements; 0: A
  TensorView w;               // first head's matrix: [A, B] (or [B, A] with transpose), f32 or bf16
  int64_t w_head_stride = 0;  // elements from one head's matrix to the next
  bool transpose = false;
  TensorView y;  // [T, heads, B] f32
  Compute compute = Compute::kF32;

  int64_t Flops() const { return 2 * x.num_elements() * y.dim(2); }
  int64_t Bytes() const {
    return static_cast<int64_t>(x.num_bytes() + y.num_bytes() +
                                static_cast<size_t>(x.dim(1)) * w.num_bytes());
  }
};

}  // namespace choir
