// Embedding, RMS norm, rope, SwiGLU, storing of KV: one pass over memory each.
// Shapes   kernels/ops/elementwise.h and attention.h; rows may be strided where the args say so.
// Bound    memory: each reads and writes its rows once (Bytes()), with next to no arithmetic.
// Plan     a block a row; of rope and SwiGLU a thread an element. RMS norm sums a row over the
//          block in the order of block_sums.cuh.
// Oracle   kernels/reference/elementwise.cc and attention.cc, under tests/contract/kernels.
// YaRN and llama3 scale frequencies when the tables are made (worker/model/config/rope.h); the
// kernel only reads them.
#pragma once

#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/upload.cuh"
#include "kernels/ops/attention.h"
#include "kernels/ops/elementwise.h"

namespace choir::cuda {

inline constexpr int kRowThreads = 128;

struct EmbeddingKernel {
  const int32_t* ids;
  Elements table;
  float* y;
  int64_t width;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t from = ids[block.x()] * width;
    for (int64_t i = block.thread(); i < width; i += block.threads()) {
      y[block.x() * width + i] = At(table, from + i);
    }
  }
};

struct RmsNormKernel {
  const float* x;
  Elements w;
  float* y;
  int64_t width, x_stride, y_stride;
  float eps;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    auto* scratch = reinterpret_cast<float*>(block.shared());
    const float* from = x + block.x() * x_stride;
    float* to = y + block.x() * y_stride;
    float sum = 0.0f;
    for (int64_t i = block.thread(); i < width; i += block.threads()) {
      sum = Fma(from[i], from[i], sum);
    }
    sum = BlockSum(block, sum, scratch);
    const float inverse = 1.0f / sqrtf(sum / static_cast<float>(width) + eps);
    for (int64_t i = block.thread(); i < width; i += block.threads()) {
      to[i] = from[i] * inverse * At(w, i);
    }
  }
};

struct RopeKernel {
  float* x;
  const float* cos;
  const float* sin;
  const int32_t* positions;
  int64_t num_heads, token_stride, head_stride, offset, half;
  bool interleaved;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t t = block.x();
    const int64_t row = positions[t] * half;
    for (int64_t n = block.thread(); n < num_heads * half; n += block.threads()) {
      const int64_t i = n % half;
      float* head = x + t * token_stride + n / half * head_stride + offset;
      float& first = head[interleaved ? 2 * i : i];
      float& second = head[interleaved ? 2 * i + 1 : i + half];
      const float u = first;
      const float v = second;
      const float c = cos[row + i];
      const float s = sin[row + i];
      first = Fma(u, c, -(v * s));
      second = Fma(v, c, u * s);
    }
  }
};

struct SwiGluKernel {
  const float* gate;
  const float* up;
  float* y;
  int64_t count;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t i = block.x() * block.threads() + block.thread();
    if (i < count) y[i] = Silu(gate[i]) * up[i];
  }
};

struct StoreKvKernel {
  const float* x;
  void* kv;
  DType dtype;
  const int64_t* slots;
  int64_t width, x_stride, kv_width, kv_column;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    if (slots[block.x()] < 0) return;
    const int64_t to = slots[block.x()] * kv_width + kv_column;
    for (int64_t i = block.thread(); i < width; i += block.threads()) {
      Put(kv, dtype, to + i, x[block.x() * x_stride + i]);
    }
  }
};

template <class Runner>
void Embedding(const EmbeddingArgs& a, const Runner& run) {
  CHOIR_CHECK(a.y.dim(0) == a.ids.dim(0) && a.y.dim(1) == a.table.dim(1));
  run({.x = a.ids.dim(0), .threads = kRowThreads},
      EmbeddingKernel{.ids = a.ids.template data<int32_t>(),
                      .table = {a.table.raw(), a.table.dtype()},
                      .y = a.y.f32(),
                      .width = a.table.dim(1)});
}

template <class Runner>
void RmsNorm(const RmsNormArgs& a, const Runner& run) {
  const int64_t width = a.x.dim(1);
  CHOIR_CHECK(a.w.num_elements() == width && a.y.dim(0) == a.x.dim(0) && a.y.dim(1) == width);
  run({.x = a.x.dim(0), .threads = kRowThreads, .shared_bytes = kWarp * sizeof(float)},
      RmsNormKernel{.x = a.x.f32(),
                    .w = {a.w.raw(), a.w.dtype()},
                    .y = a.y.f32(),
                    .width = width,
                    .x_stride = a.x_stride != 0 ? a.x_stride : width,
                    .y_stride = a.y_stride != 0 ? a.y_stride : width,
                    .eps = a.eps});
}

template <class Runner>
void Rope(const RopeArgs& a, const Runner& run) {
  CHOIR_CHECK(a.rotary_dim % 2 == 0 && a.positions.dim(0) == a.num_tokens);
  run({.x = a.num_tokens, .threads = kRowThreads},
      RopeKernel{.x = a.x.f32(),
                 .cos = a.cos.f32(),
                 .sin = a.sin.f32(),
                 .positions = a.positions.template data<int32_t>(),
                 .num_heads = a.num_heads,
                 .token_stride = a.token_stride,
                 .head_stride = a.head_stride,
                 .offset = a.offset,
                 .half = a.rotary_dim / 2,
                 .interleaved = a.interleaved});
}

template <class Runner>
void SwiGlu(const SwiGluArgs& a, const Runner& run) {
  const int64_t count = a.y.num_elements();
  CHOIR_CHECK(a.gate.num_elements() == count && a.up.num_elements() == count);
  run({.x = CeilDiv(count, kRowThreads), .threads = kRowThreads},
      SwiGluKernel{a.gate.f32(), a.up.f32(), a.y.f32(), count});
}

template <class Runner>
void StoreKv(const StoreKvArgs& a, const Runner& run) {
  const int64_t width = a.x.dim(1);
  CHOIR_CHECK(static_cast<int64_t>(a.slots.size()) == a.x.dim(0));
  CHOIR_CHECK(a.kv_column + width <= a.kv.width());
  Upload<Runner> upload(run);
  run({.x = a.x.dim(0), .threads = kRowThreads},
      StoreKvKernel{.x = a.x.f32(),
                    .kv = a.kv.data.raw(),
                    .dtype = a.kv.data.dtype(),
                    .slots = upload(a.slots),
                    .width = width,
                    .x_stride = a.x_stride != 0 ? a.x_stride : width,
                    .kv_width = a.kv.width(),
                    .kv_column = a.kv_column});
}

}  // namespace choir::cuda
