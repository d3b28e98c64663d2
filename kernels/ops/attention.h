// Paged KV: storing, GQA attention, MLA attention over latents (absorbed form).
// A sequence's keys lie in blocks of `block_tokens` tokens; block b of the sequence is
// block_table[b]. The result of a token depends on its own sequence only, and is the same for every
// chunking: scores of all keys 0..position in order, softmax and sum in a fixed order per element.
#pragma once

#include <cstdint>

#include "common/tensor/tensor_view.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/staged.h"

namespace choir {

// One layer's part of the pool: [num_blocks, block_tokens, width] f32 or bf16.
struct KvView {
  TensorView data;
  int64_t block_tokens() const { return data.dim(1); }
  int64_t width() const { return data.dim(2); }
};

// Rows of the batch that belong to one sequence: [row_begin, row_begin + row_count), at positions
// first_position, first_position + 1, ... Keys of all earlier positions are in the pool, as are its
// own. Sequences that a device has are in the order of their rows, with block tables in its memory;
// rows of no sequence are padding: nothing is computed. Sequences without rows come last.
struct AttentionSequence {
  int32_t row_begin = 0;
  int32_t row_count = 0;
  int32_t first_position = 0;
  const int32_t* block_table = nullptr;
};

// Keys that attention sees, over all rows and over all sequences (each sequence's once).
struct SeenKeys {
  int64_t of_rows = 0, of_sequences = 0;
};

// Where only the device knows the sequences, the most there can be: each as long as keys_max says,
// or, with several rows, as the pool is.
inline SeenKeys SeenKeysOf(const Staged<AttentionSequence>& sequences, int64_t rows,
                           const KvView& kv, int64_t keys_max, int64_t window) {
  const auto seen = [window](int64_t keys) { return window > 0 && keys > window ? window : keys; };
  if (sequences.empty()) return {};
  if (sequences.host == nullptr) {
    const int64_t most = keys_max > 0 ? seen(keys_max) : kv.data.dim(0) * kv.block_tokens();
    return {rows * most, static_cast<int64_t>(sequences.size()) * most};
  }
  SeenKeys keys;
  for (const AttentionSequence& s : sequences) {
    for (int32_t r = 0; r < s.row_count; ++r) keys.of_rows += seen(s.first_position + r + 1);
    const int64_t before_first = s.first_position + 1 - seen(s.first_position + 1);
    if (s.row_count > 0) keys.of_sequences += s.first_position + s.row_count - before_first;
  }
  return keys;
}

// kv[slot] = x (rounded to the pool's dtype). slot = block * block_tokens + token in block;
// on a device -1: the row is padding and is stored nowhere.
struct StoreKvArgs {
  TensorView x;          // [T, width] f32
  int64_t x_stride = 0;  // elements between rows; 0: width
  KvView kv;
  int64_t kv_column = 0;  // first column of the pool row that is written
  Staged<int64_t> slots;  // [T]
  int64_t Flops() const { return 0; }
  int64_t Bytes() const { return static_cast<int64_t>(2 * x.num_bytes()); }
};

// What MLA keeps of a row: its latent, normed, and its shared key, rotated.
// kv[slot] = norm(x[:lora]) · norm's weights, rope(x[lora:]); slots as in StoreKvArgs.
struct StoreLatentArgs {
  TensorView x;     // [T, lora + rope] f32; may be overwritten
  TensorView norm;  // [lora] f32 or bf16
  float eps = 1e-6f;
  bool interleaved = false;
  TensorView cos, sin;   // as in RopeArgs, of rope / 2 columns
  TensorView positions;  // [T] i32
  KvView kv;             // width = lora + rope
  Staged<int64_t> slots;

  // The three ops that it is, one behind the other.
  RmsNormArgs Norm() const {
    const int64_t width = x.dim(1);
    const TensorView latent(x.raw(), DType::kF32, {x.dim(0), norm.num_elements()});
    return {.x = latent,
            .x_stride = width,
            .w = norm,
            .y = latent,
            .y_stride = width,
            .eps = eps,
            .rounded = {}};
  }
  RopeArgs Rope() const {
    const int64_t width = x.dim(1), lora = norm.num_elements();
    return {.x = x,
            .y = {},
            .num_tokens = x.dim(0),
            .num_heads = 1,
            .token_stride = width,
            .head_stride = width,
            .offset = lora,
            .rotary_dim = width - lora,
            .interleaved = interleaved,
            .cos = cos,
            .sin = sin,
            .positions = positions};
  }
  StoreKvArgs Store() const { return {.x = x, .kv = kv, .slots = slots}; }

  int64_t Flops() const { return Norm().Flops() + Rope().Flops(); }
  int64_t Bytes() const {
    return static_cast<int64_t>(x.num_bytes()) + x.dim(0) * BytesOf(kv.data.dtype(), kv.width());
  }
};

struct PagedAttentionArgs {
  TensorView q;    // [T, heads, head_dim] f32
  KvView k;        // width = kv_heads * head_dim
  KvView v;        // width = kv_heads * v_dim
  TensorView out;  // [T, heads, v_dim] f32
  Staged<AttentionSequence> sequences;
  int64_t keys_max = 0;  // as in MlaAttentionArgs
  int64_t kv_heads = 0;
  float scale = 1.0f;
  int64_t window = 0;  // > 0: key j is seen by i when i - window < j <= i
  TensorView sinks;    // [heads] f32 or empty: one more logit per head whose probability is dropped
  SeenKeys Keys() const { return SeenKeysOf(sequences, q.dim(0), k, keys_max, window); }
  int64_t Flops() const { return 2 * Keys().of_rows * q.dim(1) * (q.dim(2) + out.dim(2)); }
  int64_t Bytes() const {
    const int64_t key = BytesOf(k.data.dtype(), k.width()) + BytesOf(v.data.dtype(), v.width());
    return Keys().of_sequences * key + static_cast<int64_t>(q.num_bytes() + out.num_bytes());
  }
};

// scores[t,h,j] = (q_latent[t,h]·latent[j] + q_rope[t,h]·rope[j]) · scale; out[t,h] = Σ p_j
// latent[j].
struct MlaAttentionArgs {
  TensorView q_latent;  // [T, heads, lora] f32
  TensorView q_rope;    // [T, heads, rope] f32
  KvView latent;        // width = lora + rope: normed latent, then the rotated shared key
  TensorView out;       // [T, heads, lora] f32
  Staged<AttentionSequence> sequences;
  // > 0: the call becomes part of a graph. Each sequence has one row, or none where it pads; the
  // grid may depend on their number and on this, which bounds the keys of all, but on no value.
  int64_t keys_max = 0;
  float scale = 1.0f;
  SeenKeys Keys() const { return SeenKeysOf(sequences, q_latent.dim(0), latent, keys_max, 0); }
  int64_t Flops() const {
    return 2 * Keys().of_rows * q_latent.dim(1) * (latent.width() + q_latent.dim(2));
  }
  int64_t Bytes() const {
    return Keys().of_sequences * BytesOf(latent.data.dtype(), latent.width()) +
           static_cast<int64_t>(q_latent.num_bytes() + q_rope.num_bytes() + out.num_bytes());
  }
};

}  // namespace choir
