// linear and merged_linear on Hopper: the product of product.cuh with one expert, of up to four
// matrices for the same rows.
// Shapes   x [T, K] f32; w [N, K] bf16, or f8 with scales of 128 x 128; y [T, N] f32.
// Covers   Compute::kBF16; K a multiple of 8 (bf16) or 64 (f8); w at a multiple of 16 bytes. All of
//          that holds for any rows of x and of w, so the rung below, which has the rest, gives no
//          output of a matrix that is cut. A NaN in f8 weights becomes 480 (widen.cuh); weights
//          that are loaded have none (decisions/0011).
// Bound    flops 2·T·N·K; memory up to about 206 rows (bf16) or 103 (f8): N·K·size. The head's
//          129,280 x 7,168 in bf16 is 1.85 GB.
// Plan     rows become bf16 in the workspace, where it is too small in several passes over the
//          weights, whose first stages are loaded meanwhile; rows that are rounded already are
//          taken as they lie. Nothing is uploaded, the number of rows is a parameter: a graph can
//          hold it. 8 tiles of rows take the same weights in turn (tiles.cuh), so up to 512 or
//          1,024 rows weights come from memory once. f8 weights are widened for 64 rows at a time
//          (more sums do not fit the registers beside fragments), so many rows are bound by that
//          and by the L2, not by the tensor cores. Merged matrices, of one format, are one list of
//          tiles; each has its own bits.
// Few      A tile has 64 or 128 outputs where all such tiles run at once, else 256: the same waves
//          with the same bits. At decode N = 2,112 (q_a and kv_a) is 33 blocks. If a block gets
//          100 GB/s (not measured), K = 7,168 of f8 takes them 5 µs, where the whole card could
//          read the 15 MB in 3. Parts of K by several blocks would use the others, but then sums
//          have to be cut in the same way at any number of rows, at prefill too, or a row's bits
//          would depend on it. Why so: decisions/0042.
// Oracle   kernels/reference/linear.cc, tests/contract/kernels/linear_test.cc and hopper_test.cc.
#pragma once

#include "kernels/cuda/hopper/grouped_gemm.cuh"
#include "kernels/cuda/rounded_rows.cuh"
#include "kernels/ops/linear.h"

namespace choir::cuda {

// y[row, output] = sum (+ bias) (+ y). Any number of outputs: pairs go together where all can.
struct StoreLinear {
  float* y;
  int32_t outputs;
  bool accumulate, in_pairs;

  template <class Block, class Operand, int kWaves, int kSums>
  CHOIR_DEVICE void operator()(Block& block, const Operand& of, const RowTile& t, int32_t group0,
                               float (&sums)[kWaves][kSums]) const {
    CHOIR_UNROLL
    for (int wave = 0; wave < kWaves; ++wave) {
      const int32_t output0 = group0 + wave * kWaveOutputs;
      if (of.bias.data != nullptr) AddBias(block, of.bias, outputs, output0, sums[wave]);
      float* to = y + static_cast<int64_t>(t.row0) * outputs + output0;
      const int32_t left = outputs - output0;
      ForPairs(block, sums[wave], [&](int output, int row, float first, float second) {
        if (row >= t.rows || output >= left) return;
        Put(to + static_cast<int64_t>(row) * outputs + output, first, second, output + 1 < left);
      });
    }
  }

  CHOIR_DEVICE void Put(float* to, float first, float second, bool both) const {
    if (in_pairs) {
      auto* pair = reinterpret_cast<FloatPair*>(to);
      if (accumulate) {
        const FloatPair before = *pair;
        first = before.at[0] + first;
        second = before.at[1] + second;
      }
      *pair = {first, second};
      return;
    }
    to[0] = accumulate ? to[0] + first : first;
    if (both) to[1] = accumulate ? to[1] + second : second;
  }
};

// Matrices with outputs of their own, one list of tiles.
inline constexpr int kMergedMost = 4;

template <int kWavesOfGroup, int kGroupsOfBlock>
struct MergedSide : WeightSide<1, kMergedMost, kWavesOfGroup, kGroupsOfBlock> {
  static constexpr int32_t kTile =
      WeightSide<1, kMergedMost, kWavesOfGroup, kGroupsOfBlock>::kTileOutputs;

  int32_t outputs_of[kMergedMost] = {};

  static constexpr int32_t TilesOf(int64_t outputs) {
    return static_cast<int32_t>((outputs + kTile - 1) / kTile);
  }
  constexpr int32_t Tiles() const {
    int32_t tiles = 0;
    for (int i = 0; i < kMergedMost; ++i) tiles += TilesOf(outputs_of[i]);
    return tiles;
  }
  CHOIR_DEVICE void Place(RowTile* t) const {
    CHOIR_UNROLL
    for (int i = 0; i < kMergedMost; ++i) {
      const int32_t tiles = TilesOf(outputs_of[i]);
      if (t->output_tile < tiles) {
        t->expert = i;
        return;
      }
      t->output_tile -= tiles;
    }
  }
  CHOIR_DEVICE int32_t OutputsOf(const RowTile& t) const { return outputs_of[t.expert]; }
};

struct StoreMerged {
  static constexpr bool kWeightsAhead = true;  // what is ahead gives rows, or others' results

  StoreLinear of[kMergedMost];

  template <class Block, class Operand, int kWaves, int kSums>
  CHOIR_DEVICE void operator()(Block& block, const Operand& operand, const RowTile& t,
                               int32_t group0, float (&sums)[kWaves][kSums]) const {
    of[t.expert](block, operand, t, group0, sums);
  }
};

inline bool IsCovered(const LinearArgs& a) {
  const DType dtype = a.w.dtype();
  if (a.compute != Compute::kBF16) return false;
  if (dtype != DType::kBF16 && dtype != DType::kF8E4M3) return false;
  return a.x.dim(1) % (dtype == DType::kBF16 ? 8 : kWideGroup) == 0 && a.x.dim(0) < kPlacesMost &&
         a.w.dim(0) < kPlacesMost && a.x.dim(1) < kPlacesMost &&
         IsMappable(a.w.raw(), dtype, a.x.dim(1));
}

// Parts that can be computed together.
inline bool IsCovered(std::span<const LinearArgs> parts) {
  int64_t outputs = 0;
  for (const LinearArgs& a : parts) {
    if (!IsCovered(a) || a.w.dtype() != parts[0].w.dtype()) return false;
    outputs += a.w.dim(0);
  }
  return parts.size() <= kMergedMost && outputs < kPlacesMost;
}

// Rows of x and y, and of x as products take them: there, or to be rounded first.
struct RowsOfCall {
  int64_t first, count;
  RoundedRows rounded;
  bool are_there;
};

template <Form kForm, int kRows, class Weights, class Runner>
void LaunchLinear(std::span<const LinearArgs> parts, const RowsOfCall& rows, const Runner& run) {
  const TensorView& x = parts[0].x;
  const int64_t width = x.dim(1);
  ProductKernel<kForm, kRows, Weights, StoreMerged> kernel{};
  kernel.groups.rows_each = static_cast<int32_t>(rows.count);
  kernel.groups.experts = 1;
  kernel.width = static_cast<int32_t>(width);
  auto& weights = kernel.weights;
  weights.scale_width = static_cast<int32_t>(CeilDiv(width, kF8Side));
  for (size_t i = 0; i < parts.size(); ++i) {
    const LinearArgs& a = parts[i];
    const auto outputs = static_cast<int32_t>(a.w.dim(0));
    float* y = a.y.f32() + rows.first * outputs;
    kernel.epilogue.of[i] = {y, outputs, a.accumulate,
                             outputs % 2 == 0 && reinterpret_cast<uintptr_t>(y) % 8 == 0};
    weights.outputs_of[i] = outputs;
    weights.of[i].scale[0] = a.w_scale.empty() ? nullptr : a.w_scale.f32();
    weights.of[i].bias = {a.bias.raw(), a.bias.dtype()};
    MapShape w = RowsMap(a.w.raw(), a.w.dtype(), outputs, width, kWaveOutputs);
    w.lasting = true;
    if (!run.MakeMap(w, &weights.of[i].map[0])) return;
  }
  if (!rows.are_there) {
    RoundRows(run, {x.f32() + rows.first * width, DType::kF32}, width, rows.count, width,
              rows.rounded);
  }
  LaunchProduct(run,
                {rows.rounded.data, DType::kBF16, rows.count, width, 2 * rows.rounded.pitch, kRows},
                rows.count, kernel);
}

// Whether tiles of that many outputs all run at once.
template <class Weights, class Runner>
bool FitTheCard(std::span<const LinearArgs> parts, int64_t row_tiles, const Runner& run) {
  int64_t tiles = 0;
  for (const LinearArgs& a : parts) tiles += Weights::TilesOf(a.w.dim(0));
  return row_tiles * tiles <= run.card().multiprocessors;
}

// A wave's sums are the same in tiles of 64, 128 and 256 outputs.
template <Form kForm, int kRows, class Runner>
void LinearInTiles(std::span<const LinearArgs> parts, const RowsOfCall& rows, const Runner& run) {
  const int64_t row_tiles = CeilDiv(rows.count, kRows);
  if (FitTheCard<MergedSide<1, 1>>(parts, row_tiles, run)) {
    LaunchLinear<kForm, kRows, MergedSide<1, 1>>(parts, rows, run);
  } else if (FitTheCard<MergedSide<1, 2>>(parts, row_tiles, run)) {
    LaunchLinear<kForm, kRows, MergedSide<1, 2>>(parts, rows, run);
  } else {
    LaunchLinear<kForm, kRows, MergedSide<2, 2>>(parts, rows, run);
  }
}

// By which kernel follows from the format of the weights and the number of rows.
template <class Runner>
void LinearOfRows(std::span<const LinearArgs> parts, const RowsOfCall& rows, const Runner& run) {
  if (parts[0].w.dtype() == DType::kF8E4M3) {
    LinearInTiles<Form::kF8Wide, kFewRows>(parts, rows, run);
  } else if (rows.count <= kFewRows) {
    LinearInTiles<Form::kBF16, kFewRows>(parts, rows, run);
  } else {
    LinearInTiles<Form::kBF16, kManyRows>(parts, rows, run);
  }
}

// Of a width that experts take as well. Where weights lie does not count: memory for such rows is
// counted before it is known. A linear whose weights cannot be mapped takes x as it is; experts'
// lie at multiples of 256 once they are loaded.
inline RowOrder HopperOrderOfRows(DType weights, int64_t width, Compute compute) {
  if (compute != Compute::kBF16) return RowOrder::kNone;
  const bool taken = (weights == DType::kBF16 && width % 64 == 0) ||
                     (weights == DType::kF8E4M3 && width % 128 == 0);
  return taken ? OrderFor(weights) : RowOrder::kNone;
}

// False: its shapes are not covered, and nothing was done. REQUIRES: room for a row in the
// workspace; rows of x are the same in all parts, of which there is one at least.
template <class Runner>
bool HopperLinear(std::span<const LinearArgs> parts, const Runner& run) {
  const int64_t rows = parts[0].x.dim(0), width = parts[0].x.dim(1);
  for (const LinearArgs& a : parts) {
    CHOIR_CHECK(width == a.w.dim(1) && a.y.dim(0) == rows && a.y.dim(1) == a.w.dim(0));
  }
  if (!IsCovered(parts)) return false;
  if (rows == 0) return true;
  const RoundedRows& there = parts[0].rounded;
  const RowOrder order = OrderFor(parts[0].w.dtype());
  if (there.order == order) {
    LinearOfRows(parts, {0, rows, there, true}, run);
    return true;
  }
  Upload<Runner> upload(run);
  const int64_t room = static_cast<int64_t>(upload.left() / kUploadAlign * kUploadAlign);
  int64_t at_once = std::min(room / (width * 2), rows);
  if (kManyRows < at_once && at_once < rows) at_once -= at_once % kManyRows;
  bf16* rounded = upload.template Room<bf16>(std::max<int64_t>(at_once, 1) * width);
  for (int64_t first = 0; first < rows; first += at_once) {
    const int64_t count = std::min(at_once, rows - first);
    LinearOfRows(parts, {first, count, {rounded, width, order}, false}, run);
  }
  return true;
}

}  // namespace choir::cuda
