// Paged KV: storing, GQA attention, MLA attention over latents (absorbed form).
// A sequence's keys lie in blocks of `block_tokens` tokens; block b of the sequence is
// block_table[b]. The result of a token depends on its own sequence only, and is the same for every
// chunking: scores of all keys 0..position in order, softmax and sum in a fixed order per element.
#pragma once

#include <cstdint>
#include <span>

#include "common/tensor/tensor_view.h"

namespace choir {

// One layer's part of the pool: [num_blocks, block_tokens, width] f32 or bf16.
struct KvView {
  TensorView data;
  int64_t block_tokens() const { return data.dim(1); }
  int64_t width() const { return data.dim(2); }
};

// Rows of the batch that belong to one sequence: [row_begin, row_begin + row_count), at positions
// first_position, first_position + 1, ... Keys of all earlier positions are in the pool, as are its
// own.
struct AttentionSequence {
  int32_t row_begin = 0;
  int32_t row_count = 0;
  int32_t first_position = 0;
  const int32_t* block_table = nullptr;  // host memory on the CPU
};

// kv[slot] = x (rounded to the pool's dtype). slot = block * block_tokens + token in block.
struct StoreKvArgs {
  TensorView x;          // [T, width] f32
  int64_t x_stride = 0;  // elements between rows; 0: width
  KvView kv;
  int64_t kv_column = 0;           // first column of the pool row that is written
  std::span<const int64_t> slots;  // [T]
  int64_t Flops() const { return 0; }
  int64_t Bytes() const { return static_cast<int64_t>(2 * x.num_bytes()); }
};

struct PagedAttentionArgs {
  TensorView q;    // [T, heads, head_dim] f32
  KvView k;        // width = kv_heads * head_dim
  KvView v;        // width = kv_heads * v_dim
  TensorView out;  // [T, heads, v_dim] f32
  std::span<const AttentionSequence> sequences;
  int64_t kv_heads = 0;
  float scale = 1.0f;
  int64_t window = 0;  // > 0: key j is seen by i when i - window < j <= i
  TensorView sinks;    // [heads] f32 or empty: one more logit per head whose probability is dropped
};

// scores[t,h,j] = (q_latent[t,h]·latent[j] + q_rope[t,h]·rope[j]) · scale; out[t,h] = Σ p_j
// latent[j].
struct MlaAttentionArgs {
  TensorView q_latent;  // [T, heads, lora] f32
  TensorView q_rope;    // [T, heads, rope] f32
  KvView latent;        // width = lora + rope: normed latent, then the rotated shared key
  TensorView out;       // [T, heads, lora] f32
  std::span<const AttentionSequence> sequences;
  float scale = 1.0f;
};

}  // namespace choir
