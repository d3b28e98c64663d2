// expert_ffn: y[r] = down_e(glu(gate_e(x[r]), up_e(x[r]))); combine: the weighted sum at the owner.
// Shapes   kernels/ops/moe.h: rows sorted by expert, each expert's matrices in any format.
// Bound    flops 6·R·F·H; bytes ≈ 3·E_active·F·H·size. Without tensor cores arithmetic is the wall.
// Plan     one block lists tiles of 16 rows of one expert from the offsets, as many as there could
//          be: those that there are not have no rows. A block takes (tile, 32 outputs). Two
//          launches: gate, up and glu into scratch; then down. Sums as in tile.cuh, so a row's bits
//          do not depend on which rows share its tile. The host needs to know no offset. Rows in
//          f8: values and weights are scaled on their way into shared memory; what glu gave is
//          rounded to f8 in place, and stays in f32.
// Oracle   kernels/reference/moe.cc; bounds in tests/contract/kernels/moe_test.cc.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/f8_rows.cuh"
#include "kernels/cuda/simple/linear.cuh"
#include "kernels/cuda/simple/permute.cuh"
#include "kernels/cuda/upload.cuh"
#include "kernels/ops/moe.h"

namespace choir::cuda {

// Rows of one expert, at most kTileRows of them; none: a tile that there is not.
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

constexpr Matrix MatrixOrNone(const TensorView& w, const TensorView& scale) {
  return w.empty() ? Matrix{} : MatrixOf(w, scale);
}

constexpr ExpertMatrices MatricesOf(const ExpertWeights& w) {
  return {MatrixOrNone(w.gate, w.gate_scale),
          MatrixOrNone(w.up, w.up_scale),
          MatrixOrNone(w.down, w.down_scale),
          {w.gate_bias.raw(), w.gate_bias.dtype()},
          {w.down_bias.raw(), w.down_bias.dtype()}};
}

// The most tiles that `rows` rows of `experts` experts make.
constexpr int64_t TilesMax(int64_t rows, int64_t experts, int64_t tile_rows) {
  const int64_t tiles = (rows + experts * (tile_rows - 1)) / tile_rows;
  return tiles < rows ? tiles : rows;
}

// One block: the tiles of all experts one after the other, then tiles without rows.
struct ListTilesKernel {
  static constexpr int kThreads = 128;
  const int32_t* offsets;
  ExpertTile* tiles;
  int64_t experts, tiles_max;
  int32_t tile_rows;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    auto* counts = reinterpret_cast<int32_t*>(block.shared());  // [kThreads]
    int64_t next = 0;
    for (int64_t e0 = 0; e0 < experts; e0 += kThreads) {
      const int64_t e = e0 + block.thread();
      const int32_t begin = e < experts ? offsets[e] : 0;
      const int32_t rows = e < experts ? offsets[e + 1] - begin : 0;
      counts[block.thread()] = static_cast<int32_t>(CeilDiv(rows, tile_rows));
      block.Sync();
      int64_t at = next;
      for (int t = 0; t < kThreads; ++t) {
        if (t < block.thread()) at += counts[t];
        next += counts[t];
      }
      for (int32_t r = 0; r < rows; r += tile_rows, ++at) {
        const int32_t left = rows - r;
        tiles[at] = {static_cast<int32_t>(e), begin + r, left < tile_rows ? left : tile_rows};
      }
      block.Sync();  // before counts are written again
    }
    for (int64_t i = next + block.thread(); i < tiles_max; i += kThreads) tiles[i] = {0, 0, 0};
  }
};

// Rows of activations in any format that the op takes.
struct ExpertRows {
  Elements x;          // with scales: f8
  const float* scale;  // or null
  int64_t pitch, scale_pitch;
  Compute compute;

  CHOIR_DEVICE float At(int64_t row, int64_t k) const {
    const int64_t i = row * pitch + k;
    if (scale == nullptr) return Operand(cuda::At(x, i), compute);
    return F8ToF32(static_cast<const uint8_t*>(x.data)[i]) * scale[row * scale_pitch + k / kF8Side];
  }
};

inline ExpertRows RowsOf(const ExpertFfnArgs& a) {
  const bool f8 = a.has_f8_rows();
  return {.x = {a.x.raw(), a.x.dtype()},
          .scale = f8 ? a.x_scale.f32() : nullptr,
          .pitch = a.x_pitch(),
          .scale_pitch = f8 ? a.x_scale_pitch() : 0,
          .compute = a.compute};
}

struct GateUpKernel {
  ExpertRows x;
  const ExpertTile* tiles;
  const ExpertWeights* experts;
  float* scratch;
  int64_t hidden, inner;
  Glu glu;
  bool input_major;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const ExpertTile t = tiles[block.y()];
    if (t.rows == 0) return;
    const ExpertMatrices w = MatricesOf(experts[t.expert]);
    const bool fused = w.up.data == nullptr;
    const int64_t f0 = block.x() * kTileOutputs;
    const auto rows = [&](int r, int64_t k) { return x.At(t.row_begin + r, k); };
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

// The rows of a list of tiles: place x of the grid's row y is a row of tile y.
struct RowsOfTiles {
  const ExpertTile* tiles;

  template <class Block>
  CHOIR_DEVICE int64_t Of(const Block& block) const {
    const ExpertTile t = tiles[block.y()];
    return block.x() < t.rows ? t.row_begin + block.x() : -1;
  }
};

// A block a row, a thread a column of each 128: the values that f8 with scales has, in f32.
struct RoundToF8Kernel {
  RowsOfTiles rows;
  float* x;
  int64_t width;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row = rows.Of(block);
    if (row < 0) return;
    auto* scratch = reinterpret_cast<float*>(block.shared());
    for (int64_t k = block.thread(); k < CeilDiv(width, kF8Side) * kF8Side; k += kF8Side) {
      float* at = x + row * width + k;
      const float value = k < width ? *at : 0.0f;
      const float scale = F8ScaleOf(BlockMax(block, value < 0 ? -value : value, scratch));
      if (k < width) *at = F8ToF32(ToF8(value / scale)) * scale;
    }
  }
};

struct DownKernel {
  const float* scratch;
  const ExpertTile* tiles;
  const ExpertWeights* experts;
  float* y;
  int64_t hidden, inner;
  Compute compute;
  bool input_major;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const ExpertTile t = tiles[block.y()];
    if (t.rows == 0) return;
    const ExpertMatrices w = MatricesOf(experts[t.expert]);
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

// Lists the tiles on the device and calls launch(tiles, count) with all that there could be, as
// many at a time as a grid may have.
template <class Runner, class LaunchTiles>
void ForListedTiles(const ExpertFfnArgs& a, int32_t tile_rows, Upload<Runner>& upload,
                    const Runner& run, const LaunchTiles& launch) {
  constexpr int64_t kGridMax = 65535;
  const auto experts = static_cast<int64_t>(a.experts.size());
  const int64_t most = TilesMax(a.x.dim(0), experts, tile_rows);
  if (most == 0) return;
  const int32_t* offsets = upload(a.offsets);
  auto* tiles = upload.template Room<ExpertTile>(most);
  run({.threads = ListTilesKernel::kThreads,
       .shared_bytes = ListTilesKernel::kThreads * sizeof(int32_t)},
      ListTilesKernel{offsets, tiles, experts, most, tile_rows});
  for (int64_t begin = 0; begin < most; begin += kGridMax) {
    launch(tiles + begin, std::min(kGridMax, most - begin));
  }
}

template <class Runner>
void ExpertFfn(const ExpertFfnArgs& a, const Runner& run) {
  const int64_t hidden = a.x.dim(1);
  const int64_t inner = a.scratch.dim(1);
  CheckExpertFfn(a);
  Upload<Runner> upload(run);
  const ExpertWeights* experts = upload(a.experts);
  ForListedTiles(a, kTileRows, upload, run, [&](const ExpertTile* part, int64_t n) {
    Grid grid{.x = CeilDiv(inner, kTileOutputs),
              .y = n,
              .threads = kTileThreads,
              .shared_bytes = kTileShared};
    run(grid, GateUpKernel{.x = RowsOf(a),
                           .tiles = part,
                           .experts = experts,
                           .scratch = a.scratch.f32(),
                           .hidden = hidden,
                           .inner = inner,
                           .glu = a.glu,
                           .input_major = a.input_major});
    if (a.has_f8_rows()) {
      run({.x = kTileRows, .y = n, .threads = kF8Side, .shared_bytes = kWarp * sizeof(float)},
          RoundToF8Kernel{{part}, a.scratch.f32(), inner});
    }
    grid.x = CeilDiv(hidden, kTileOutputs);
    run(grid, DownKernel{.scratch = a.scratch.f32(),
                         .tiles = part,
                         .experts = experts,
                         .y = a.y.f32(),
                         .hidden = hidden,
                         .inner = inner,
                         .compute = a.has_f8_rows() ? Compute::kF32 : a.compute,
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
