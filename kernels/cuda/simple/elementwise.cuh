// Embedding, RMS norm, rope, SwiGLU, storing of KV: one pass over memory each; storing of latents:
// three of these.
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

// Columns of heads in pairs, and where they go when they are turned.
struct RopeRows {
  const float* x;  // first column of token 0, head 0
  float* y;        // may be x
  const float* cos;
  const float* sin;
  const int32_t* positions;
  int64_t token_stride, head_stride, y_token_stride, y_head_stride, half;
  bool interleaved;

  struct Pair {
    float first, second;
  };

  CHOIR_DEVICE int64_t First(int64_t i) const { return interleaved ? 2 * i : i; }
  CHOIR_DEVICE int64_t Second(int64_t i) const { return interleaved ? 2 * i + 1 : i + half; }
  CHOIR_DEVICE Pair Turned(int64_t token, int64_t head, int64_t i) const {
    const float* from = x + token * token_stride + head * head_stride;
    const float u = from[First(i)];
    const float v = from[Second(i)];
    const float c = cos[positions[token] * half + i];
    const float s = sin[positions[token] * half + i];
    return {Fma(u, c, -(v * s)), Fma(v, c, u * s)};
  }
  CHOIR_DEVICE void Turn(int64_t token, int64_t head, int64_t i) const {
    const Pair turned = Turned(token, head, i);
    float* to = y + token * y_token_stride + head * y_head_stride;
    to[First(i)] = turned.first;
    to[Second(i)] = turned.second;
  }
};

struct RopeKernel {
  RopeRows rows;
  int64_t num_heads;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    for (int64_t n = block.thread(); n < num_heads * rows.half; n += block.threads()) {
      rows.Turn(block.x(), n / rows.half, n % rows.half);
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

// Rows and their places in a pool.
struct KvRows {
  const float* x;
  void* kv;
  DType dtype;
  const int64_t* slots;  // < 0: nowhere
  int64_t width, x_stride, kv_width, kv_column;

  CHOIR_DEVICE const float* Row(int64_t row) const { return x + row * x_stride; }
  CHOIR_DEVICE int64_t FirstPlace(int64_t row) const { return slots[row] * kv_width + kv_column; }
};

struct StoreKvKernel {
  KvRows rows;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row = block.x();
    if (rows.slots[row] < 0) return;
    for (int64_t i = block.thread(); i < rows.width; i += block.threads()) {
      Put(rows.kv, rows.dtype, rows.FirstPlace(row) + i, rows.Row(row)[i]);
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

inline RopeRows RopeRowsOf(const RopeArgs& a) {
  const bool in_place = a.y.empty();
  float* x = a.x.f32() + a.offset;
  return {.x = x,
          .y = in_place ? x : a.y.f32(),
          .cos = a.cos.f32(),
          .sin = a.sin.f32(),
          .positions = a.positions.data<int32_t>(),
          .token_stride = a.token_stride,
          .head_stride = a.head_stride,
          .y_token_stride = in_place ? a.token_stride : a.num_heads * a.rotary_dim,
          .y_head_stride = in_place ? a.head_stride : a.rotary_dim,
          .half = a.rotary_dim / 2,
          .interleaved = a.interleaved};
}

template <class Runner>
void Rope(const RopeArgs& a, const Runner& run) {
  CHOIR_CHECK(a.rotary_dim % 2 == 0 && a.positions.dim(0) == a.num_tokens);
  run({.x = a.num_tokens, .threads = kRowThreads}, RopeKernel{RopeRowsOf(a), a.num_heads});
}

template <class Runner>
void SwiGlu(const SwiGluArgs& a, const Runner& run) {
  const int64_t count = a.y.num_elements();
  CHOIR_CHECK(a.gate.num_elements() == count && a.up.num_elements() == count);
  run({.x = CeilDiv(count, kRowThreads), .threads = kRowThreads},
      SwiGluKernel{a.gate.f32(), a.up.f32(), a.y.f32(), count});
}

// slots: where a kernel reads them.
inline KvRows KvRowsOf(const StoreKvArgs& a, const int64_t* slots) {
  const int64_t width = a.x.dim(1);
  CHOIR_CHECK(static_cast<int64_t>(a.slots.size()) == a.x.dim(0));
  CHOIR_CHECK(a.kv_column + width <= a.kv.width());
  return {.x = a.x.f32(),
          .kv = a.kv.data.raw(),
          .dtype = a.kv.data.dtype(),
          .slots = slots,
          .width = width,
          .x_stride = a.x_stride != 0 ? a.x_stride : width,
          .kv_width = a.kv.width(),
          .kv_column = a.kv_column};
}

template <class Runner>
void StoreKv(const StoreKvArgs& a, const Runner& run) {
  Upload<Runner> upload(run);
  run({.x = a.x.dim(0), .threads = kRowThreads}, StoreKvKernel{KvRowsOf(a, upload(a.slots))});
}

template <class Runner>
void StoreLatent(const StoreLatentArgs& a, const Runner& run) {
  RmsNorm(a.Norm(), run);
  Rope(a.Rope(), run);
  StoreKv(a.Store(), run);
}

}  // namespace choir::cuda
