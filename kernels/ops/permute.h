// Rows of tokens to the order of their experts and back: what dispatch and combine are on one rank.
#pragma once

#include <cstdint>

#include "common/tensor/tensor_view.h"

namespace choir {

// Pair p = t * top_k + k goes to row row_of[p] of y, ordered by expert, then by pair. Ids outside
// [0, E) belong to another rank: their row_of is -1 and they are not copied.
struct PermuteArgs {
  TensorView x;           // [T, H] f32
  int64_t x_stride = 0;   // elements between rows; 0: H
  TensorView expert_ids;  // [T, top_k] i32
  TensorView offsets;     // [E + 1] i32: rows of expert e are offsets[e] .. offsets[e + 1]
  TensorView row_of;      // [T * top_k] i32
  TensorView counts;      // [E] i64, or empty: rows of each expert are added
  TensorView y;           // [T * top_k, H] f32 or bf16; rows from offsets[E] on stay as they are
  int64_t x_pitch() const { return x_stride != 0 ? x_stride : x.dim(1); }
  int64_t Flops() const { return 0; }
  int64_t Bytes() const {
    return static_cast<int64_t>(x.num_bytes() + y.num_bytes() + 2 * expert_ids.num_bytes());
  }
};

// out[t] (+)= Σ_k weights[t,k] · y[row_of[t·top_k + k]], k ascending, FP32; pairs whose row is -1
// are left out. With row_of = 0, 1, 2, ... the same as Combine.
struct UnpermuteArgs {
  TensorView y;        // [R, H] f32
  TensorView row_of;   // [T * top_k] i32
  TensorView weights;  // [T, top_k] f32
  TensorView out;      // [T, H] f32
  bool accumulate = true;
  int64_t Flops() const { return 2 * weights.num_elements() * out.dim(1); }
  int64_t Bytes() const {
    return weights.num_elements() * out.dim(1) * 4 + static_cast<int64_t>(out.num_bytes());
  }
};

}  // namespace choir
