// grouped_gemm: y[r,:] = x[r,:] · w[expert of r]ᵀ, bf16 or block-scaled f8. quantize_f8 and
// dequantize: the way into f8, and out of 8 and 4 bits.
// Shapes   kernels/ops/grouped_gemm.h: x [R,K] sorted by expert, w [E*N,K], y [R,N].
// Bound    flops 2·R·N·K, bytes ≈ E_active·N·K·size. Rows per expert at which arithmetic is the
//          wall on an H100: about 295 (bf16, 989 TF / 3.35 TB/s). This rung uses FP32 FMA and is
//          far from both: it is what the tensor-core one is compared with.
// Plan     tiles of 16 rows of one expert by 32 outputs (tile.cuh). f8: each 128 columns of K are
//          summed by themselves and added with x_scale · w_scale by one FMA.
// Oracle   kernels/reference/gpu_ops.cc, tests/contract/kernels/gpu_ops_test.cc.
#pragma once

#include <vector>

#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/simple/experts.cuh"
#include "kernels/ops/grouped_gemm.h"

namespace choir::cuda {

// The rows of a block: from the host's list, or by counts that the device has (masked form).
struct GroupTiles {
  const ExpertTile* list;
  const int32_t* counts;
  int32_t rows_each, rows_max;  // of an expert, of a tile

  CHOIR_DEVICE ExpertTile At(int64_t i) const {
    if (counts == nullptr) return list[i];
    const int32_t tiles_each = (rows_each + rows_max - 1) / rows_max;
    const auto expert = static_cast<int32_t>(i / tiles_each);
    const auto begin = static_cast<int32_t>(i % tiles_each) * rows_max;
    const int32_t count = counts[expert] < rows_each ? counts[expert] : rows_each;
    const int32_t left = count < begin ? 0 : count - begin;
    return {expert, expert * rows_each + begin, left < rows_max ? left : rows_max};
  }
};

struct GroupedGemmKernel {
  const void* x;
  const float* x_scale;
  Matrix w;
  void* y;
  DType y_dtype;
  GroupTiles tiles;
  int64_t outputs;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const ExpertTile t = tiles.At(block.y());
    if (t.rows == 0) return;
    const int64_t n0 = block.x() * kTileOutputs;
    float sums[kThreadSums] = {};
    if (w.dtype == DType::kF8E4M3) {
      for (int64_t k0 = 0; k0 < w.width; k0 += kF8Side) AddF8Block(block, t, n0, k0, sums);
    } else {
      AddBF16(block, t, n0, sums);
    }
    const auto shape = MakeTile(t.rows, outputs - n0, 0, 0, 0);
    StoreTile(block, shape, sums, [&](int r, int n, float sum) {
      Put(y, y_dtype, (t.row_begin + r) * outputs + n0 + n, sum);
    });
  }

  template <class Block>
  CHOIR_DEVICE void AddBF16(Block& block, const ExpertTile& t, int64_t n0,
                            float (&sums)[kThreadSums]) const {
    const int64_t width = w.width;
    const bf16* rows = static_cast<const bf16*>(x) + t.row_begin * width;
    const bf16* from = static_cast<const bf16*>(w.data) + (t.expert * outputs + n0) * width;
    const auto tile = MakeTile(
        t.rows, outputs - n0, width, [&](int r, int64_t k) { return ToF32(rows[r * width + k]); },
        [&](int n, int64_t k) { return ToF32(from[n * width + k]); });
    TileProduct(block, tile, sums);
  }

  template <class Block>
  CHOIR_DEVICE void AddF8Block(Block& block, const ExpertTile& t, int64_t n0, int64_t k0,
                               float (&sums)[kThreadSums]) const {
    const int64_t width = w.width;
    const uint8_t* rows = static_cast<const uint8_t*>(x) + t.row_begin * width + k0;
    const uint8_t* from =
        static_cast<const uint8_t*>(w.data) + (t.expert * outputs + n0) * width + k0;
    const int64_t left = width - k0;
    float part[kThreadSums];
    const auto tile = MakeTile(
        t.rows, outputs - n0, left < kF8Side ? left : kF8Side,
        [&](int r, int64_t k) { return F8ToF32(rows[r * width + k]); },
        [&](int n, int64_t k) { return F8ToF32(from[n * width + k]); });
    TileProduct(block, tile, part);
    const int64_t column = k0 / kF8Side;
    const int64_t n = n0 + TileOutput(block.thread());
    if (n >= outputs) return;  // all barriers are behind
    const int64_t blocks_down = CeilDiv(outputs, kF8Side);
    const float w_scale = static_cast<const float*>(
        w.scale)[(t.expert * blocks_down + n / kF8Side) * w.scale_width + column];
    for (int i = 0; i < kThreadSums; ++i) {
      const int r = TileRow(block.thread(), i);
      if (r >= t.rows) continue;
      const float scale = x_scale[(t.row_begin + r) * w.scale_width + column] * w_scale;
      sums[i] = Fma(part[i], scale, sums[i]);
    }
  }
};

// A block a row, 128 threads: a thread a column of each block of 128.
struct QuantizeF8Kernel {
  Elements x;
  uint8_t* y;
  float* y_scale;
  int64_t width, y_stride, y_scale_stride;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    auto* scratch = reinterpret_cast<float*>(block.shared());
    const int64_t blocks = CeilDiv(width, kF8Side);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t k = b * kF8Side + block.thread();
      const float value = k < width ? At(x, block.x() * width + k) : 0.0f;
      const float size = BlockMax(block, value < 0 ? -value : value, scratch);
      const float scale = F8ScaleOf(size);
      if (k < width) y[block.x() * y_stride + k] = ToF8(value / scale);
      if (block.thread() == 0) y_scale[block.x() * y_scale_stride + b] = scale;
    }
  }
};

struct DequantizeKernel {
  Matrix w;
  void* y;
  DType dtype;
  bool scale_of_rows;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    for (int64_t k = block.thread(); k < w.width; k += block.threads()) {
      const int64_t i = block.x() * w.width + k;
      float value = 0.0f;
      if (scale_of_rows) {
        value = F8ToF32(static_cast<const uint8_t*>(w.data)[i]) *
                static_cast<const float*>(w.scale)[block.x() * w.scale_width + k / kF8Side];
      } else {
        value = At(w, block.x(), k);
      }
      Put(y, dtype, i, value);
    }
  }
};

inline void CheckGroupedGemm(const GroupedGemmArgs& a) {
  CHOIR_CHECK(a.x.dtype() == a.w.dtype() && a.x.dim(1) == a.w.dim(1));
  CHOIR_CHECK(a.w.dim(0) == a.num_experts() * a.y.dim(1));
  CHOIR_CHECK(a.counts.empty() ? a.offsets.back() == a.x.dim(0)
                               : a.x.dim(0) % a.num_experts() == 0);
  CHOIR_CHECK(a.x.dtype() == DType::kBF16 || !(a.x_scale.empty() || a.w_scale.empty()));
}

// Calls launch(tiles, count) for all tiles of `rows_max` rows.
template <class Runner, class LaunchTiles>
void ForGroupTiles(const GroupedGemmArgs& a, int32_t rows_max, const Runner& run,
                   const LaunchTiles& launch) {
  if (!a.counts.empty()) {
    const auto rows_each = static_cast<int32_t>(a.x.dim(0) / a.num_experts());
    const GroupTiles tiles{nullptr, a.counts.template data<int32_t>(), rows_each, rows_max};
    launch(tiles, a.num_experts() * CeilDiv(rows_each, rows_max));
    return;
  }
  Upload<Runner> upload(run);
  const std::vector<ExpertTile> list = TilesOf(a.offsets, rows_max);
  ForTiles(upload, std::span<const ExpertTile>(list), [&](const ExpertTile* part, int64_t n) {
    launch(GroupTiles{part, nullptr, 0, rows_max}, n);
  });
}

template <class Runner>
void GroupedGemm(const GroupedGemmArgs& a, const Runner& run) {
  const int64_t outputs = a.y.dim(1);
  CheckGroupedGemm(a);
  ForGroupTiles(a, kTileRows, run, [&](const GroupTiles& tiles, int64_t n) {
    run({.x = CeilDiv(outputs, kTileOutputs),
         .y = n,
         .threads = kTileThreads,
         .shared_bytes = kTileShared},
        GroupedGemmKernel{.x = a.x.raw(),
                          .x_scale = a.x_scale.empty() ? nullptr : a.x_scale.f32(),
                          .w = MatrixOf(a.w, a.w_scale),
                          .y = a.y.raw(),
                          .y_dtype = a.y.dtype(),
                          .tiles = tiles,
                          .outputs = outputs});
  });
}

template <class Runner>
void QuantizeF8(const QuantizeF8Args& a, const Runner& run) {
  CHOIR_CHECK(a.y.dim(0) == a.x.dim(0) && a.y.dim(1) == a.x.dim(1));
  CHOIR_CHECK(a.y_scale.dim(1) == CeilDiv(a.x.dim(1), kF8Side));
  const int64_t width = a.x.dim(1);
  run({.x = a.x.dim(0), .threads = kF8Side, .shared_bytes = kWarp * sizeof(float)},
      QuantizeF8Kernel{
          .x = {a.x.raw(), a.x.dtype()},
          .y = a.y.template data<uint8_t>(),
          .y_scale = a.y_scale.f32(),
          .width = width,
          .y_stride = a.y_stride != 0 ? a.y_stride : width,
          .y_scale_stride = a.y_scale_stride != 0 ? a.y_scale_stride : a.y_scale.dim(1)});
}

template <class Runner>
void Dequantize(const DequantizeArgs& a, const Runner& run) {
  CHOIR_CHECK(a.y.dim(0) == a.w.dim(0) && a.y.dim(1) == a.w.dim(1));
  run({.x = a.w.dim(0), .threads = 128},
      DequantizeKernel{MatrixOf(a.w, a.w_scale), a.y.raw(), a.y.dtype(), a.scale_of_rows()});
}

}  // namespace choir::cuda
