// Small ops over rows: embedding, RMS norm, rope, SwiGLU, add.
#pragma once

#include <cstdint>

#include "common/tensor/tensor_view.h"
#include "kernels/ops/rounded_rows.h"

namespace choir {

struct EmbeddingArgs {
  TensorView ids;    // [T] i32, each in [0, V)
  TensorView table;  // [V, H] f32, bf16 or f16
  TensorView y;      // [T, H] f32
  int64_t Flops() const { return 0; }
  int64_t Bytes() const { return static_cast<int64_t>(2 * y.num_bytes()); }
};

// y = x / sqrt(mean(x²) + eps) · w, FP32 inside. Rows may be strided (a latent inside a wider row).
struct RmsNormArgs {
  TensorView x;          // [T, H] f32
  int64_t x_stride = 0;  // elements between rows; 0: H
  TensorView w;          // [H] f32 or bf16
  TensorView y;          // [T, H] f32; may be x
  int64_t y_stride = 0;
  float eps = 1e-6f;
  RoundedRows rounded;  // y once more, or empty
  int64_t Flops() const { return 4 * x.num_elements(); }
  int64_t Bytes() const { return static_cast<int64_t>(x.num_bytes() + y.num_bytes()); }
};

// Rotates `rotary_dim` columns of each head, beginning at `offset`, in place or into rows of their
// own. interleaved: pairs (2i, 2i+1); else pairs (i, i + rotary_dim/2).
struct RopeArgs {
  TensorView x;  // first element of token 0, head 0; f32
  TensorView y;  // [T, heads, rotary_dim] f32, not of x's memory: what was rotated; empty: in place
  int64_t num_tokens = 0;
  int64_t num_heads = 0;
  int64_t token_stride = 0;  // elements
  int64_t head_stride = 0;   // elements
  int64_t offset = 0;
  int64_t rotary_dim = 0;  // even
  bool interleaved = false;
  TensorView cos, sin;   // [positions_max, rotary_dim / 2] f32
  TensorView positions;  // [T] i32

  // Where a head's rotated columns go.
  float* Of(int64_t token, int64_t head) const {
    if (!y.empty()) return y.f32() + (token * num_heads + head) * rotary_dim;
    return x.f32() + token * token_stride + head * head_stride + offset;
  }
  int64_t Flops() const { return 3 * num_tokens * num_heads * rotary_dim; }
  int64_t Bytes() const { return 8 * num_tokens * num_heads * rotary_dim; }
};

// y = silu(gate) · up, elementwise, FP32.
struct SwiGluArgs {
  TensorView gate, up;  // [T, F] f32
  TensorView y;         // [T, F] f32; may be gate
  RoundedRows rounded;  // y once more, or empty
  int64_t Flops() const { return 5 * y.num_elements(); }
  int64_t Bytes() const { return static_cast<int64_t>(3 * y.num_bytes()); }
};

}  // namespace choir
