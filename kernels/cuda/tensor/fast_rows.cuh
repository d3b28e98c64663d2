// Embedding, RMS norm, rope, SwiGLU, storing of KV and of MLA's latents: the second rung, no tensor
// cores in it.
// Shapes   as simple/elementwise.cuh; store_latent: x [T, lora + rope] f32,
// kernels/ops/attention.h.
//          Rows in fours of columns (fours.cuh), norms of at most 8,192; else the simple way. That
//          is the same for any number of rows.
// Bound    memory; for a few rows how long one takes, as a decode step has a dozen of these a
//          layer, one behind the other: a norm of 7,168 columns is one load of eight elements a
//          thread and one sum of 28 warps, counted as 2 us, where 128 threads with an element at a
//          time have 56 loads behind each other twice.
// Plan     a norm keeps its row in registers, two fours a thread: a warp a row up to 256 columns,
//          else a block. Rope: a thread a pair. The others: a thread four columns.
// Order    of a norm's sum: of a thread its fours, ascending; lanes by a butterfly; warps ascending
//          (block_sums.cuh). How many threads follows from the width alone.
// Oracle   the simple kernels and kernels/reference, under tests/contract/kernels.
#pragma once

#include "kernels/cuda/kernel_table.h"
#include "kernels/cuda/rounded_rows.cuh"
#include "kernels/cuda/simple/elementwise.cuh"

namespace choir::cuda {

inline constexpr int kNormFours = 2;  // of a thread
inline constexpr int kNormThreadsMost = 1024;
inline constexpr int kNormRows = 4;  // of a block where a warp has a row
inline constexpr int kFourThreads = 256;

// A row's norm by threads [0, of_row) of it, `own` this thread's number; others only help to sum.
struct RowNorm {
  Elements w;
  int32_t fours, of_row;
  float eps;

  static int ThreadsOf(int64_t width) {
    return static_cast<int>(CeilDiv(CeilDiv(width, 4 * kNormFours), kWarp) * kWarp);
  }

  // sum_all(value): over the row's threads, the same in all. store(column, four): of y.
  template <class SumAll, class Store>
  CHOIR_DEVICE void operator()(const float* x, int own, const SumAll& sum_all,
                               const Store& store) const {
    Floats4 values[kNormFours] = {};
    float sum = 0.0f;
    CHOIR_UNROLL
    for (int j = 0; j < kNormFours; ++j) {
      const int i = own + j * of_row;
      if (own < of_row && i < fours) values[j] = reinterpret_cast<const Floats4*>(x)[i];
      CHOIR_UNROLL
      for (const float value : values[j].at) sum = Fma(value, value, sum);
    }
    sum = sum_all(sum);
    const float inverse = 1.0f / sqrtf(sum / static_cast<float>(4 * fours) + eps);
    CHOIR_UNROLL
    for (int j = 0; j < kNormFours; ++j) {
      const int i = own + j * of_row;
      if (own >= of_row || i >= fours) continue;
      const Floats4 factors = FourAt(w, 4 * i);
      CHOIR_UNROLL
      for (int k = 0; k < 4; ++k) values[j].at[k] = values[j].at[k] * inverse * factors.at[k];
      store(4 * i, values[j]);
    }
  }
};

template <bool kWarpARow>
struct FastRmsNormKernel {
  static constexpr int kThreads = kWarpARow ? kNormRows * kWarp : kNormThreadsMost;
  static constexpr int kBlocksLeast = 1;
  const float* x;
  float* y;
  RowNorm norm;
  int64_t rows, x_stride, y_stride;
  RoundedTo rounded;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row = kWarpARow ? block.x() * kNormRows + block.warp() : block.x();
    if (row >= rows) return;
    norm(
        x + row * x_stride, kWarpARow ? block.lane() : block.thread(),
        [&](float sum) { return SumAll(block, sum); },
        [&](int i, const Floats4& four) {
          *reinterpret_cast<Floats4*>(y + row * y_stride + i) = four;
          if (rounded.data != nullptr) rounded.PutFour(block, row, i, four);
        });
  }

 private:
  template <class Block>
  CHOIR_DEVICE static float SumAll(Block& block, float sum) {
    if constexpr (kWarpARow) {
      return WarpSum(block, sum);
    } else {
      return BlockSum(block, sum, reinterpret_cast<float*>(block.shared()));
    }
  }
};

struct FastRopeKernel {
  RopeRows rows;
  int32_t heads;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const auto half = static_cast<int32_t>(rows.half);
    const int32_t pair = static_cast<int32_t>(block.y()) * block.threads() + block.thread();
    if (pair < heads * half) rows.Turn(block.x(), pair / half, pair % half);
  }
};

struct FastEmbeddingKernel {
  const int32_t* ids;
  Elements table;
  float* y;
  int64_t width;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t i = (block.y() * block.threads() + block.thread()) * 4;
    if (i >= width) return;
    *reinterpret_cast<Floats4*>(y + block.x() * width + i) =
        FourAt(table, ids[block.x()] * width + i);
  }
};

struct FastSwiGluKernel {
  const float* gate;
  const float* up;
  float* y;
  int64_t width;
  RoundedTo rounded;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t i = (block.y() * block.threads() + block.thread()) * 4;
    if (i >= width) return;
    const int64_t at = block.x() * width + i;
    Floats4 four = *reinterpret_cast<const Floats4*>(gate + at);
    const auto ups = *reinterpret_cast<const Floats4*>(up + at);
    CHOIR_UNROLL
    for (int k = 0; k < 4; ++k) four.at[k] = Silu(four.at[k]) * ups.at[k];
    *reinterpret_cast<Floats4*>(y + at) = four;
    if (rounded.data != nullptr) rounded.PutFour(block, block.x(), i, four);
  }
};

struct FastStoreKvKernel {
  KvRows rows;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row = block.x();
    const int64_t i = (block.y() * block.threads() + block.thread()) * 4;
    if (rows.slots[row] < 0 || i >= rows.width) return;
    PutFour(rows.kv, rows.dtype, rows.FirstPlace(row) + i,
            *reinterpret_cast<const Floats4*>(rows.Row(row) + i));
  }
};

// A block a row: the norm's threads, and a warp for the rope.
struct FastStoreLatentKernel {
  static constexpr int kThreads = kNormThreadsMost;
  static constexpr int kBlocksLeast = 1;
  const float* x;
  RowNorm norm;
  RopeRows rope;
  void* kv;
  DType dtype;
  const int64_t* slots;
  int64_t width;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row = block.x();
    const int64_t slot = slots[row];
    if (slot < 0) return;
    const int64_t to = slot * width;
    norm(
        x + row * width, block.thread(),
        [&](float sum) { return BlockSum(block, sum, reinterpret_cast<float*>(block.shared())); },
        [&](int i, const Floats4& four) { PutFour(kv, dtype, to + i, four); });
    const int64_t lora = 4 * norm.fours;
    for (int64_t i = block.thread() - norm.of_row; i >= 0 && i < rope.half; i += kWarp) {
      const RopeRows::Pair turned = rope.Turned(row, 0, i);
      Put(kv, dtype, to + lora + rope.First(i), turned.first);
      Put(kv, dtype, to + lora + rope.Second(i), turned.second);
    }
  }
};

inline bool IsFastNorm(const RmsNormArgs& a) {
  const int64_t width = a.x.dim(1);
  return width % 4 == 0 && width <= int64_t{4} * kNormFours * kNormThreadsMost &&
         InFours(a.x.raw(), DType::kF32, a.x_stride) &&
         InFours(a.y.raw(), DType::kF32, a.y_stride) && InFours(a.w.raw(), a.w.dtype(), 0);
}

inline RowNorm RowNormOf(const TensorView& w, float eps) {
  const int64_t width = w.num_elements();
  return {{w.raw(), w.dtype()}, static_cast<int32_t>(width / 4), RowNorm::ThreadsOf(width), eps};
}

template <class Runner>
void FastRmsNorm(const RmsNormArgs& a, const Runner& run) {
  const int64_t rows = a.x.dim(0), width = a.x.dim(1);
  const int64_t x_stride = a.x_stride != 0 ? a.x_stride : width;
  const int64_t y_stride = a.y_stride != 0 ? a.y_stride : width;
  if (!IsFastNorm(a)) {
    RmsNorm(a, run);
    return AlsoRounded(run, a.y, width, y_stride, a.rounded);
  }
  CHOIR_CHECK(a.w.num_elements() == width && a.y.dim(0) == rows && a.y.dim(1) == width);
  const RowNorm norm = RowNormOf(a.w, a.eps);
  const RoundedTo rounded = RoundedToOf(a.rounded);
  if (norm.of_row == kWarp) {
    run({.x = CeilDiv(rows, kNormRows), .threads = kNormRows * kWarp},
        FastRmsNormKernel<true>{a.x.f32(), a.y.f32(), norm, rows, x_stride, y_stride, rounded});
  } else {
    run({.x = rows, .threads = norm.of_row, .shared_bytes = kWarp * sizeof(float)},
        FastRmsNormKernel<false>{a.x.f32(), a.y.f32(), norm, rows, x_stride, y_stride, rounded});
  }
}

template <class Runner>
void FastRope(const RopeArgs& a, const Runner& run) {
  CHOIR_CHECK(a.rotary_dim % 2 == 0 && a.positions.dim(0) == a.num_tokens);
  const int64_t pairs = a.num_heads * (a.rotary_dim / 2);
  if (pairs > INT32_MAX) return Rope(a, run);
  run({.x = a.num_tokens, .y = CeilDiv(pairs, kRowThreads), .threads = kRowThreads},
      FastRopeKernel{RopeRowsOf(a), static_cast<int32_t>(a.num_heads)});
}

template <class Runner>
void FastEmbedding(const EmbeddingArgs& a, const Runner& run) {
  const int64_t width = a.y.dim(1);
  if (!InFours(a.table.raw(), a.table.dtype(), width) || !InFours(a.y.raw(), DType::kF32, width)) {
    return Embedding(a, run);
  }
  CHOIR_CHECK(a.y.dim(0) == a.ids.dim(0) && width == a.table.dim(1));
  run({.x = a.ids.dim(0), .y = CeilDiv(width, 4 * kFourThreads), .threads = kFourThreads},
      FastEmbeddingKernel{.ids = a.ids.template data<int32_t>(),
                          .table = {a.table.raw(), a.table.dtype()},
                          .y = a.y.f32(),
                          .width = width});
}

template <class Runner>
void FastSwiGlu(const SwiGluArgs& a, const Runner& run) {
  const int64_t width = a.y.dim(1);
  const auto in_fours = [width](const TensorView& t) {
    return InFours(t.raw(), DType::kF32, width);
  };
  if (!in_fours(a.gate) || !in_fours(a.up) || !in_fours(a.y)) {
    SwiGlu(a, run);
    return AlsoRounded(run, a.y, width, width, a.rounded);
  }
  CHOIR_CHECK(a.gate.num_elements() == a.y.num_elements());
  CHOIR_CHECK(a.up.num_elements() == a.y.num_elements());
  run({.x = a.y.dim(0), .y = CeilDiv(width, 4 * kFourThreads), .threads = kFourThreads},
      FastSwiGluKernel{a.gate.f32(), a.up.f32(), a.y.f32(), width, RoundedToOf(a.rounded)});
}

template <class Runner>
void FastStoreKv(const StoreKvArgs& a, const Runner& run) {
  const int64_t width = a.x.dim(1);
  if (width % 4 != 0 || a.kv_column % 4 != 0 || !InFours(a.x.raw(), DType::kF32, a.x_stride) ||
      !InFours(a.kv.data.raw(), a.kv.data.dtype(), a.kv.width())) {
    return StoreKv(a, run);
  }
  Upload<Runner> upload(run);
  const auto threads =
      static_cast<int>(std::min<int64_t>(CeilDiv(width, 4 * kWarp) * kWarp, kFourThreads));
  run({.x = a.x.dim(0), .y = CeilDiv(width, 4 * threads), .threads = threads},
      FastStoreKvKernel{KvRowsOf(a, upload(a.slots))});
}

template <class Runner>
void FastStoreLatent(const StoreLatentArgs& a, const Runner& run) {
  const int64_t lora = a.norm.num_elements(), width = a.x.dim(1);
  const RowNorm norm = RowNormOf(a.norm, a.eps);
  const DType dtype = a.kv.data.dtype();
  if (lora % 4 != 0 || norm.of_row + kWarp > kNormThreadsMost ||
      !InFours(a.x.raw(), DType::kF32, width) || !InFours(a.norm.raw(), a.norm.dtype(), 0) ||
      !InFours(a.kv.data.raw(), dtype, width)) {
    return StoreLatent(a, run);
  }
  CHOIR_CHECK(static_cast<int64_t>(a.slots.size()) == a.x.dim(0) && a.kv.width() == width);
  Upload<Runner> upload(run);
  run({.x = a.x.dim(0), .threads = norm.of_row + kWarp, .shared_bytes = kWarp * sizeof(float)},
      FastStoreLatentKernel{.x = a.x.f32(),
                            .norm = norm,
                            .rope = RopeRowsOf(a.Rope()),
                            .kv = a.kv.data.raw(),
                            .dtype = dtype,
                            .slots = upload(a.slots),
                            .width = width});
}

// Replaces these of a table of simple kernels.
template <class Runner>
void FillTensorRows(KernelTable* t) {
  using S = const KernelStream&;
  t->embedding = [](const EmbeddingArgs& a, S s) { FastEmbedding(a, Runner(s)); };
  t->rms_norm = [](const RmsNormArgs& a, S s) { FastRmsNorm(a, Runner(s)); };
  t->rope = [](const RopeArgs& a, S s) { FastRope(a, Runner(s)); };
  t->swi_glu = [](const SwiGluArgs& a, S s) { FastSwiGlu(a, Runner(s)); };
  t->store_kv = [](const StoreKvArgs& a, S s) { FastStoreKv(a, Runner(s)); };
  t->store_latent = [](const StoreLatentArgs& a, S s) { FastStoreLatent(a, Runner(s)); };
}

}  // namespace choir::cuda
