// grouped_gemm on Hopper: shapes, bound and plan stand in product.cuh.
// Covers   f8 and bf16, rows by offsets or by counts on the device; N even; rows of x and w, and y,
//          at multiples of 16 bytes. Anything else is left to the tensor rung.
// Oracle   kernels/reference/gpu_ops.cc, tests/contract/kernels/gpu_ops_test.cc.
#pragma once

#include <algorithm>

#include "kernels/cuda/hopper/epilogue.cuh"
#include "kernels/cuda/simple/grouped_gemm.cuh"
#include "kernels/cuda/upload.cuh"

namespace choir::cuda {

// Rows that one launch computes: where they lie, and what bounds the tiles there may be.
struct RowsOfLaunch {
  RowGroups groups;
  int64_t rows = 0;           // all there may be
  int64_t rows_expected = 0;  // of an expert
};

// Tiles of 64 rows waste less where experts have few, those of 128 read weights half as often.
inline constexpr int kFewRows = 64;
inline constexpr int kManyRows = 128;

// Launches a kernel of which all but the map of x and the grid is set. Compute capability 9.0 has
// the shared memory for it.
template <class Runner, class Kernel>
void LaunchProduct(const Runner& run, const MapShape& x, int64_t rows, Kernel& kernel) {
  if (!run.MakeMap(x, &kernel.x)) return;
  const int64_t tile_rows = x.box_rows;
  const int64_t row_tiles =
      kernel.groups.offsets == nullptr
          ? kernel.groups.experts * CeilDiv(kernel.groups.rows_each, tile_rows)
          : CeilDiv(rows, tile_rows) + std::min<int64_t>(kernel.groups.experts, rows);
  const int64_t tiles = row_tiles * kernel.weights.Tiles();
  kernel.blocks = static_cast<int32_t>(std::min<int64_t>(run.card().multiprocessors, tiles));
  run({.x = kernel.blocks,
       .threads = Kernel::kThreads,
       .shared_bytes = Kernel::Stage::kSharedBytes},
      kernel);
}

template <Form kForm, int kRows, class Runner>
void GroupedProduct(const GroupedGemmArgs& a, const RowsOfLaunch& rows, const Runner& run) {
  using Weights = WeightSide<1, 1>;
  ProductKernel<kForm, kRows, Weights, StoreOutputs> kernel{};
  const auto outputs = static_cast<int32_t>(a.y.dim(1));
  kernel.x_scale = a.x_scale.empty() ? nullptr : a.x_scale.f32();
  kernel.groups = rows.groups;
  kernel.width = static_cast<int32_t>(a.x.dim(1));
  kernel.epilogue = {.y = a.y.raw(), .dtype = a.y.dtype(), .outputs = outputs};
  kernel.weights.of[0].scale[0] = a.w_scale.empty() ? nullptr : a.w_scale.f32();
  kernel.weights.outputs = outputs;
  kernel.weights.outputs_each = outputs;
  kernel.weights.scale_rows_each = static_cast<int32_t>(CeilDiv(outputs, kF8Side));
  kernel.weights.scale_width = static_cast<int32_t>(CeilDiv(a.x.dim(1), kF8Side));
  kernel.x_scale_pitch = kernel.weights.scale_width;
  const MapShape w = RowsMap(a.w.raw(), a.w.dtype(), a.w.dim(0), a.w.dim(1), kWaveOutputs);
  if (!run.MakeMap(w, &kernel.weights.of[0].map[0])) return;
  LaunchProduct(run, RowsMap(a.x.raw(), a.x.dtype(), rows.rows, a.x.dim(1), kRows), rows.rows,
                kernel);
}

// Counts of rows, outputs and columns, and places of tiles, are int32 in the kernels.
inline constexpr int64_t kPlacesMost = (int64_t{1} << 31) - 256;

inline bool IsCovered(const GroupedGemmArgs& a) {
  const DType dtype = a.x.dtype();
  return (dtype == DType::kBF16 || dtype == DType::kF8E4M3) && a.y.dim(1) % 2 == 0 &&
         a.x.dim(0) < kPlacesMost && a.w.dim(0) < kPlacesMost && a.x.dim(1) < kPlacesMost &&
         IsMappable(a.x.raw(), dtype, a.x.dim(1)) && IsMappable(a.w.raw(), dtype, a.x.dim(1)) &&
         reinterpret_cast<uintptr_t>(a.y.raw()) % 8 == 0;
}

// False: its shapes are not covered, and nothing was done.
template <class Runner>
bool HopperGroupedGemm(const GroupedGemmArgs& a, const Runner& run) {
  CheckGroupedGemm(a);
  const int64_t experts = a.num_experts();
  if (!IsCovered(a)) return false;
  if (a.x.dim(0) == 0) return true;
  Upload<Runner> upload(run);
  RowsOfLaunch rows{.rows = a.x.dim(0), .rows_expected = CeilDiv(a.x.dim(0), experts)};
  rows.groups.experts = static_cast<int32_t>(experts);
  if (a.counts.empty()) {
    rows.groups.offsets = upload(a.offsets);
  } else {
    rows.groups.counts = a.counts.template data<int32_t>();
    rows.groups.rows_each = static_cast<int32_t>(a.x.dim(0) / experts);
    rows.rows_expected = std::min<int64_t>(rows.groups.rows_each, a.rows_expected);
  }
  const bool few = rows.rows_expected <= kFewRows;
  if (a.x.dtype() == DType::kBF16 && few) {
    GroupedProduct<Form::kBF16, kFewRows>(a, rows, run);
  } else if (a.x.dtype() == DType::kBF16) {
    GroupedProduct<Form::kBF16, kManyRows>(a, rows, run);
  } else if (few) {
    GroupedProduct<Form::kF8, kFewRows>(a, rows, run);
  } else {
    GroupedProduct<Form::kF8, kManyRows>(a, rows, run);
  }
  return true;
}

}  // namespace choir::cuda
