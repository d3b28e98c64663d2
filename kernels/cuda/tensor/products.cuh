// linear, grouped_gemm and expert_ffn on tensor cores, for weights of 16, 8 and 4 bits.
// Shapes   as in kernels/ops; Compute::kBF16 with weights in bf16, f8 (128x128 scales) or f4.
//          Of Compute::kF32 f32_linear.cuh takes linear; anything else goes the simple way.
// Bound    flops 2·R·N·K against tensor cores, bytes ≈ N·K·size of w for few rows: weights are read
//          in their own format once per 64 rows, so a decode step is bound by memory.
// Plan     a block a tile of 64 rows (of one expert) by 64 outputs (mma_tile.cuh); values become
//          bf16 on their way into shared memory, which is exact for f8 and f4; f8's scales are
//          applied in FP32 to the sum of each 128 columns. expert_ffn: 32 gates and their 32 ups
//          share a tile, so glu happens in registers. Rows in f8 likewise, H a multiple of 64 and
//          F of 128 (else the simple way): what glu gave becomes f8 in place, scales come in with
//          the weights'. No pipelining: on Hopper hopper/ takes what it covers.
// Oracle   the simple kernels and kernels/reference, under tests/contract/kernels.
#pragma once

#include "kernels/cuda/simple/experts.cuh"
#include "kernels/cuda/simple/grouped_gemm.cuh"
#include "kernels/cuda/simple/linear.cuh"
#include "kernels/cuda/tensor/f32_linear.cuh"
#include "kernels/cuda/tensor/head_project.cuh"
#include "kernels/cuda/tensor/load8.cuh"
#include "kernels/cuda/tensor/mma_tile.cuh"

namespace choir::cuda {

inline bool HasMmaForm(DType weights, Compute compute) {
  return compute == Compute::kBF16 &&
         (weights == DType::kBF16 || weights == DType::kF8E4M3 || weights == DType::kF4E2M1);
}

// One matrix of weights, rows of x that may have scales of their own.
struct PlainSource {
  Rows8 x, w;
  const float* x_scale;  // [R, ceil(K / 128)], rows x_scale_pitch apart, or null
  int64_t x_scale_pitch;
  int64_t row0, output0;  // of the tile; output0 counts from the expert's first
  int64_t w_row0;         // of the expert in w
  int64_t w_scale_row0;   // of the expert in w's scales
  int rows_here, outputs_here;

  CHOIR_DEVICE int rows() const { return rows_here; }
  CHOIR_DEVICE int outputs() const { return outputs_here; }
  CHOIR_DEVICE int64_t width() const { return w.m.width; }
  CHOIR_DEVICE void X(int r, int64_t k, bf16 (&out)[8]) const { x.Get(row0 + r, k, out); }
  CHOIR_DEVICE void W(int n, int64_t k, bf16 (&out)[8]) const {
    w.Get(w_row0 + output0 + n, k, out);
  }
  CHOIR_DEVICE bool scaled() const { return w.m.dtype == DType::kF8E4M3; }
  CHOIR_DEVICE float Scale(int r, int, int64_t block) const {
    const int64_t row = w_scale_row0 + output0 / kF8Side;  // 64 outputs lie in one block
    const float scale = static_cast<const float*>(w.m.scale)[row * w.m.scale_width + block];
    if (x_scale == nullptr || r >= rows_here) return scale;
    return x_scale[(row0 + r) * x_scale_pitch + block] * scale;
  }
};

struct MmaLinearKernel {
  Rows8 x, w;
  Elements bias;
  float* y;
  int64_t rows, outputs;
  bool accumulate;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row0 = block.y() * kMmaRows;
    const int64_t output0 = block.x() * kMmaOutputs;
    const PlainSource source{x,
                             w,
                             nullptr,
                             0,
                             row0,
                             output0,
                             0,
                             0,
                             Least(rows - row0, kMmaRows),
                             Least(outputs - output0, kMmaOutputs)};
    MmaSums sums;
    MmaProduct(block, source, sums);
    StoreMma(block, source, sums, [&](int r, int n, float sum) {
      float* to = y + (row0 + r) * outputs + output0 + n;
      if (bias.data != nullptr) sum += At(bias, output0 + n);
      *to = accumulate ? *to + sum : sum;
    });
  }
};

struct MmaGroupedKernel {
  Rows8 x, w;
  const float* x_scale;
  void* y;
  DType y_dtype;
  GroupTiles tiles;
  int64_t outputs;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const ExpertTile t = tiles.At(block.y());
    if (t.rows == 0) return;
    const int64_t output0 = block.x() * kMmaOutputs;
    const PlainSource source{x,
                             w,
                             x_scale,
                             w.m.scale_width,
                             t.row_begin,
                             output0,
                             t.expert * outputs,
                             t.expert * CeilDiv(outputs, kF8Side),
                             t.rows,
                             Least(outputs - output0, kMmaOutputs)};
    MmaSums sums;
    MmaProduct(block, source, sums);
    StoreMma(block, source, sums, [&](int r, int n, float sum) {
      Put(y, y_dtype, (t.row_begin + r) * outputs + output0 + n, sum);
    });
  }
};

// 32 gates and the 32 ups that belong to them.
struct GateUpSource {
  static constexpr int kPairs = kMmaOutputs / 2;
  Rows8 x, gate, up;     // fused: gate and up are the same matrix
  const float* x_scale;  // as PlainSource's
  int64_t x_scale_pitch;
  bool fused;
  int64_t row0, f0, inner;
  int rows_here;

  CHOIR_DEVICE int rows() const { return rows_here; }
  CHOIR_DEVICE int outputs() const { return kMmaOutputs; }
  CHOIR_DEVICE int64_t width() const { return gate.m.width; }
  CHOIR_DEVICE void X(int r, int64_t k, bf16 (&out)[8]) const { x.Get(row0 + r, k, out); }
  CHOIR_DEVICE void W(int n, int64_t k, bf16 (&out)[8]) const {
    const int64_t f = f0 + n % kPairs;
    if (f >= inner) return;
    if (n < kPairs) {
      gate.Get(RowOf(f, true), k, out);
    } else {
      up.Get(RowOf(f, false), k, out);
    }
  }
  CHOIR_DEVICE int64_t RowOf(int64_t f, bool is_gate) const {
    return fused ? 2 * f + (is_gate ? 0 : 1) : f;
  }
  CHOIR_DEVICE bool scaled() const { return gate.m.dtype == DType::kF8E4M3; }
  CHOIR_DEVICE float Scale(int r, int fragment, int64_t block) const {
    const bool is_gate = fragment < kMmaFragments / 2;
    const Matrix& m = is_gate ? gate.m : up.m;
    const int64_t row = RowOf(f0, is_gate) / kF8Side;  // 32 of a matrix, or 64 fused, share one
    const float scale = static_cast<const float*>(m.scale)[row * m.scale_width + block];
    if (x_scale == nullptr || r >= rows_here) return scale;
    return x_scale[(row0 + r) * x_scale_pitch + block] * scale;
  }
};

struct MmaGateUpKernel {
  Rows8 x;
  const float* x_scale;  // or null
  int64_t x_scale_pitch;
  const ExpertTile* tiles;
  const ExpertWeights* experts;
  float* scratch;
  int64_t inner;
  Glu glu;
  bool aligned;  // all experts' matrices

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const ExpertTile t = tiles[block.y()];
    if (t.rows == 0) return;
    const ExpertMatrices e = MatricesOf(experts[t.expert]);
    const bool fused = e.up.data == nullptr;
    const int64_t f0 = block.x() * GateUpSource::kPairs;
    const GateUpSource source{x,
                              {e.gate, aligned},
                              {fused ? e.gate : e.up, aligned},
                              x_scale,
                              x_scale_pitch,
                              fused,
                              t.row_begin,
                              f0,
                              inner,
                              t.rows};
    MmaSums sums;
    MmaProduct(block, source, sums);
    CHOIR_UNROLL
    for (int f = 0; f < kMmaFragments / 2; ++f) {
      CHOIR_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int r = MmaRow(block.thread(), i);
        const int64_t column = f0 + MmaOutput(block.thread(), f, i);
        if (r >= t.rows || column >= inner) continue;
        float gate = sums.at[f][i];
        float up = sums.at[f + kMmaFragments / 2][i];
        if (e.gate_bias.data != nullptr) {
          gate += At(e.gate_bias, 2 * column);
          up += At(e.gate_bias, 2 * column + 1);
        }
        scratch[(t.row_begin + r) * inner + column] = ApplyGlu(glu, gate, up);
      }
    }
  }
};

struct MmaDownKernel {
  Rows8 scratch;
  const float* x_scale;  // of scratch in f8, or null
  int64_t x_scale_pitch;
  const ExpertTile* tiles;
  const ExpertWeights* experts;
  float* y;
  int64_t hidden;
  bool aligned;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const ExpertTile t = tiles[block.y()];
    if (t.rows == 0) return;
    const ExpertMatrices e = MatricesOf(experts[t.expert]);
    const int64_t h0 = block.x() * kMmaOutputs;
    const PlainSource source{scratch,     {e.down, aligned},
                             x_scale,     x_scale_pitch,
                             t.row_begin, h0,
                             0,           0,
                             t.rows,      Least(hidden - h0, kMmaOutputs)};
    MmaSums sums;
    MmaProduct(block, source, sums);
    StoreMma(block, source, sums, [&](int r, int n, float sum) {
      if (e.down_bias.data != nullptr) sum += At(e.down_bias, h0 + n);
      y[(t.row_begin + r) * hidden + h0 + n] = sum;
    });
  }
};

inline Rows8 Rows8Of(const TensorView& t, int64_t width) {
  return Rows8Of(Matrix{t.raw(), nullptr, t.dtype(), width, 0});
}

template <class Runner>
void MmaLinear(const LinearArgs& a, const Runner& run) {
  if (!HasMmaForm(a.w.dtype(), a.compute)) return Linear(a, run);
  const int64_t rows = a.x.dim(0);
  const int64_t outputs = a.w.dim(0);
  CHOIR_CHECK(a.x.dim(1) == a.w.dim(1) && a.y.dim(0) == rows && a.y.dim(1) == outputs);
  run({.x = CeilDiv(outputs, kMmaOutputs),
       .y = CeilDiv(rows, kMmaRows),
       .threads = kMmaThreads,
       .shared_bytes = kMmaShared},
      MmaLinearKernel{.x = Rows8Of(a.x, a.x.dim(1)),
                      .w = Rows8Of(MatrixOf(a.w, a.w_scale)),
                      .bias = {a.bias.raw(), a.bias.dtype()},
                      .y = a.y.f32(),
                      .rows = rows,
                      .outputs = outputs,
                      .accumulate = a.accumulate});
}

template <class Runner>
void MmaGroupedGemm(const GroupedGemmArgs& a, const Runner& run) {
  const int64_t outputs = a.y.dim(1);
  CheckGroupedGemm(a);
  ForGroupTiles(a, kMmaRows, run, [&](const GroupTiles& tiles, int64_t n) {
    run({.x = CeilDiv(outputs, kMmaOutputs),
         .y = n,
         .threads = kMmaThreads,
         .shared_bytes = kMmaShared},
        MmaGroupedKernel{.x = Rows8Of(a.x, a.x.dim(1)),
                         .w = Rows8Of(MatrixOf(a.w, a.w_scale)),
                         .x_scale = a.x_scale.empty() ? nullptr : a.x_scale.f32(),
                         .y = a.y.raw(),
                         .y_dtype = a.y.dtype(),
                         .tiles = tiles,
                         .outputs = outputs});
  });
}

inline bool AllAligned(std::span<const ExpertWeights> experts) {
  for (const ExpertWeights& w : experts) {
    const ExpertMatrices e = MatricesOf(w);
    if (!Rows8Of(e.gate).aligned || !Rows8Of(e.down).aligned) return false;
    if (e.up.data != nullptr && !Rows8Of(e.up).aligned) return false;
  }
  return true;
}

inline bool HasMmaForm(const ExpertFfnArgs& a) {
  if (a.experts.empty() || a.input_major || !HasMmaForm(a.experts.front().gate.dtype(), a.compute))
    return false;
  // Tiles take 64 columns, and what lies behind a row in f8 is not zeros.
  return !a.has_f8_rows() || (a.x.dim(1) % kMmaColumns == 0 && a.scratch.dim(1) % kF8Side == 0 &&
                              reinterpret_cast<uintptr_t>(a.scratch.raw()) % 16 == 0);
}

template <class Runner>
void MmaExpertFfn(const ExpertFfnArgs& a, const Runner& run) {
  if (!HasMmaForm(a)) return ExpertFfn(a, run);
  const int64_t hidden = a.x.dim(1);
  const int64_t inner = a.scratch.dim(1);
  CheckExpertFfn(a);
  Upload<Runner> upload(run);
  const bool aligned = AllAligned(a.experts);
  const ExpertWeights* experts = upload(a.experts);
  const bool f8 = a.has_f8_rows();
  const TensorView packed(a.scratch.raw(), DType::kF8E4M3, {a.scratch.dim(0), 4 * inner});
  ForListedTiles(a, kMmaRows, upload, run, [&](const ExpertTile* part, int64_t n) {
    Grid grid{.x = CeilDiv(inner, GateUpSource::kPairs),
              .y = n,
              .threads = kMmaThreads,
              .shared_bytes = kMmaShared};
    run(grid, MmaGateUpKernel{.x = Rows8Of(a.x, a.x_pitch()),
                              .x_scale = f8 ? a.x_scale.f32() : nullptr,
                              .x_scale_pitch = f8 ? a.x_scale_pitch() : 0,
                              .tiles = part,
                              .experts = experts,
                              .scratch = a.scratch.f32(),
                              .inner = inner,
                              .glu = a.glu,
                              .aligned = aligned});
    if (f8) PackF8(run, {.x = kMmaRows, .y = n}, RowsOfTiles{part}, a.scratch.f32(), inner);
    grid.x = CeilDiv(hidden, kMmaOutputs);
    run(grid, MmaDownKernel{.scratch = f8 ? Rows8Of(packed, 4 * inner) : Rows8Of(a.scratch, inner),
                            .x_scale = f8 ? a.scratch.f32() + inner / 4 : nullptr,
                            .x_scale_pitch = inner,
                            .tiles = part,
                            .experts = experts,
                            .y = a.y.f32(),
                            .hidden = hidden,
                            .aligned = aligned});
  });
}

// By the kernels of this rung for either way to compute, or the simple one.
template <class Runner>
void TensorLinear(const LinearArgs& a, const Runner& run) {
  if (!F32Linear(a, run)) MmaLinear(a, run);
}

// Replaces the products of a table of simple kernels.
template <class Runner>
void FillTensor(KernelTable* t) {
  using S = const KernelStream&;
  t->linear = [](const LinearArgs& a, S s) { TensorLinear(a, Runner(s)); };
  t->merged_linear = [](const MergedLinearArgs& a, S s) {
    for (const LinearArgs& part : a.parts) TensorLinear(part, Runner(s));
  };
  t->head_project = [](const HeadProjectArgs& a, S s) { MmaHeadProject(a, Runner(s)); };
  t->grouped_gemm = [](const GroupedGemmArgs& a, S s) { MmaGroupedGemm(a, Runner(s)); };
  t->expert_ffn = [](const ExpertFfnArgs& a, S s) { MmaExpertFfn(a, Runner(s)); };
}

}  // namespace choir::cuda
