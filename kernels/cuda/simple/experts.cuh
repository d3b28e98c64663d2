// expert_ffn: y[r] = down_e(glu(gate_e(x[r]), up_e(x[r]))); combine: the weighted sum at the owner.
// Shapes   kernels/ops/moe.h: rows sorted by expert, each expert's matrices in any format.
// Bound    flops 6·R·F·H; bytes ≈ 3·E_active·F·H·size. Without tensor cores arithmetic is the wall.
// Plan     the host lists tiles of 16 rows of one expert; a block takes (tile, 32 outputs). Two
//          launches: gate, up and glu into scratch; then down. Sums as in tile.cuh, so a row's bits
//          do not depend on which rows share its tile.
// Oracle   kernels/reference/moe.cc; bounds in tests/contract/kernels/moe_test.cc.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cuda/simple/linear.cuh"
#include "kernels/cuda/simple/permute.cuh"
#include "kernels/cuda/upload.cuh"
#include "kernels/ops/moe.h"

namespace choir::cuda {

// Rows of one expert, at most kTileRows of them.
struct ExpertTile {
  int32_t expert;
  int32_t row_begin;
  int32_t rows;
};

// The matrices of one expert as kernels read them. Fused: gate holds both, up has no data.
struct ExpertMatrices {
  Matrix gate, up, down;
  Elements gate_bias, down_bias;
};

// Element (output, k), whichever way the matrix lies.
CHOIR_DEVICE float ExpertAt(const Matrix& m, bool input_major, int64_t output, int64_t k) {
  return input_major ? At(m, k, output) : At(m, output, k);
}

CHOIR_DEVICE float ApplyGlu(const Glu& glu, float gate, float up) {
  if (glu.kind == Glu::Kind::kSilu) return Silu(gate) * up;
  if (gate > glu.limit) gate = glu.limit;
  if (up > glu.limit) up = glu.limit;
  if (up < -glu.limit) up = -glu.limit;
  return (up + 1.0f) * gate * Sigmoid(glu.alpha * gate);
}

struct GateUpKernel {
  Elements x;
  const ExpertTile* tiles;
  const ExpertMatrices* experts;
  float* scratch;
  int64_t hidden, inner;
  Compute compute;
  Glu glu;
  bool input_major;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const ExpertTile t = tiles[block.y()];
    const ExpertMatrices& w = experts[t.expert];
    const bool fused = w.up.data == nullptr;
    const int64_t f0 = block.x() * kTileOutputs;
    const auto rows = [&](int r, int64_t k) {
      return Operand(At(x, (t.row_begin + r) * hidden + k), compute);
    };
    float gate[kThreadSums];
    float up[kThreadSums];
    const auto gate_tile = MakeTile(t.rows, inner - f0, hidden, rows, [&](int n, int64_t k) {
      return ExpertAt(w.gate, input_major, fused ? 2 * (f0 + n) : f0 + n, k);
    });
    TileProduct(block, gate_tile, gate);
    const auto up_tile = MakeTile(t.rows, inner - f0, hidden, rows, [&](int n, int64_t k) {
      return fused ? ExpertAt(w.gate, input_major, 2 * (f0 + n) + 1, k)
                   : ExpertAt(w.up, input_major, f0 + n, k);
    });
    TileProduct(block, up_tile, up);
    for (int i = 0; i < kThreadSums; ++i) {
      const int64_t f = f0 + TileOutput(block.thread());
      if (w.gate_bias.data != nullptr && f < inner) {
        gate[i] += At(w.gate_bias, 2 * f);
        up[i] += At(w.gate_bias, 2 * f + 1);
      }
      gate[i] = ApplyGlu(glu, gate[i], up[i]);
    }
    StoreTile(block, gate_tile, gate, [&](int r, int n, float value) {
      scratch[(t.row_begin + r) * inner + f0 + n] = value;
    });
  }
};

struct DownKernel {
  const float* scratch;
  const ExpertTile* tiles;
  const ExpertMatrices* experts;
  float* y;
  int64_t hidden, inner;
  Compute compute;
  bool input_major;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const ExpertTile t = tiles[block.y()];
    const ExpertMatrices& w = experts[t.expert];
    const int64_t h0 = block.x() * kTileOutputs;
    const auto tile = MakeTile(
        t.rows, hidden - h0, inner,
        [&](int r, int64_t k) { return Operand(scratch[(t.row_begin + r) * inner + k], compute); },
        [&](int n, int64_t k) { return ExpertAt(w.down, input_major, h0 + n, k); });
    float sums[kThreadSums];
    TileProduct(block, tile, sums);
    StoreTile(block, tile, sums, [&](int r, int n, float sum) {
      if (w.down_bias.data != nullptr) sum += At(w.down_bias, h0 + n);
      y[(t.row_begin + r) * hidden + h0 + n] = sum;
    });
  }
};

inline Matrix MatrixOrNone(const TensorView& w, const TensorView& scale) {
  return w.empty() ? Matrix{} : MatrixOf(w, scale);
}

inline std::vector<ExpertMatrices> MatricesOf(std::span<const ExpertWeights> experts) {
  std::vector<ExpertMatrices> out;
  for (const ExpertWeights& w : experts) {
    out.push_back({MatrixOrNone(w.gate, w.gate_scale),
                   MatrixOrNone(w.up, w.up_scale),
                   MatrixOrNone(w.down, w.down_scale),
                   {w.gate_bias.raw(), w.gate_bias.dtype()},
                   {w.down_bias.raw(), w.down_bias.dtype()}});
  }
  return out;
}

// All rows in tiles of at most `rows_max` rows of one expert.
inline std::vector<ExpertTile> TilesOf(std::span<const int32_t> offsets, int32_t rows_max) {
  std::vector<ExpertTile> tiles;
  for (size_t e = 0; e + 1 < offsets.size(); ++e) {
    for (int32_t r = offsets[e]; r < offsets[e + 1]; r += rows_max) {
      tiles.push_back({static_cast<int32_t>(e), r, std::min(rows_max, offsets[e + 1] - r)});
    }
  }
  return tiles;
}

// Calls launch(tiles, count) with as many uploaded tiles at a time as the workspace still holds and
// a grid may have.
template <class Runner, class LaunchTiles>
void ForTiles(const Upload<Runner>& upload, std::span<const ExpertTile> tiles,
              const LaunchTiles& launch) {
  constexpr size_t kGridMax = 65535;
  const size_t room = upload.left() / kUploadAlign * kUploadAlign;
  const size_t most = std::min(kGridMax, room / sizeof(ExpertTile));
  CHOIR_CHECK(most > 0 || tiles.empty());
  while (!tiles.empty()) {
    const auto part = tiles.first(std::min(most, tiles.size()));
    Upload<Runner> rest = upload;  // each part takes the same room: launches run in order
    launch(rest(part), static_cast<int64_t>(part.size()));
    tiles = tiles.subspan(part.size());
  }
}

template <class Runner>
void ExpertFfn(const ExpertFfnArgs& a, const Runner& run) {
  const int64_t hidden = a.x.dim(1);
  const int64_t inner = a.scratch.dim(1);
  CHOIR_CHECK(a.offsets.size() == a.experts.size() + 1 && a.offsets.back() == a.x.dim(0));
  Upload<Runner> upload(run);
  const std::vector<ExpertMatrices> matrices = MatricesOf(a.experts);
  const ExpertMatrices* experts = upload(std::span<const ExpertMatrices>(matrices));
  const std::vector<ExpertTile> tiles = TilesOf(a.offsets, kTileRows);
  ForTiles(upload, std::span<const ExpertTile>(tiles), [&](const ExpertTile* part, int64_t n) {
    Grid grid{.x = CeilDiv(inner, kTileOutputs),
              .y = n,
              .threads = kTileThreads,
              .shared_bytes = kTileShared};
    run(grid, GateUpKernel{.x = {a.x.raw(), a.x.dtype()},
                           .tiles = part,
                           .experts = experts,
                           .scratch = a.scratch.f32(),
                           .hidden = hidden,
                           .inner = inner,
                           .compute = a.compute,
                           .glu = a.glu,
                           .input_major = a.input_major});
    grid.x = CeilDiv(hidden, kTileOutputs);
    run(grid, DownKernel{.scratch = a.scratch.f32(),
                         .tiles = part,
                         .experts = experts,
                         .y = a.y.f32(),
                         .hidden = hidden,
                         .inner = inner,
                         .compute = a.compute,
                         .input_major = a.input_major});
  });
}

template <class Runner>
void Combine(const CombineArgs& a, const Runner& run) {
  const int64_t top_k = a.weights.dim(1);
  CHOIR_CHECK(a.y.dim(0) == a.out.dim(0) * top_k && a.y.dim(1) == a.out.dim(1));
  run({.x = a.out.dim(0), .threads = 128}, WeightedSumKernel{.y = a.y.f32(),
                                                             .row_of = nullptr,
                                                             .weights = a.weights.f32(),
                                                             .out = a.out.f32(),
                                                             .width = a.out.dim(1),
                                                             .top_k = top_k,
                                                             .accumulate = a.accumulate});
}

}  // namespace choir::cuda
