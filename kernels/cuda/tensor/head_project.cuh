// head_project on tensor cores: each head's rows by its own matrix, whose K runs along its lines
// (transpose) or across them.
// Shapes   x [T,heads,K] f32, strided; w of a head [N,K] bf16 (transpose) or [K,N]; y [T,heads,N]
//          f32. Compute::kBF16; K and N multiples of 8, rows of x and lines of w at multiples of 16
//          bytes. Anything else goes the simple way.
// Bound    bytes: w once per 64 rows, x and y once. DeepSeek-V3's 128 heads of 128 x 512 are 16.8
//          MB, 3.5 us at 4.8 TB/s; from 64 rows on x and y are more than that. 4,096 rows: 1.3 GB,
//          0.4 ms, beside 69 GFLOP, 0.1 ms of mma.sync.
// Plan     a block a tile of rows and outputs of one head. Weights come by asynchronous copies, two
//          steps of K ahead; x in registers, a step ahead, where it becomes bf16 on its way into
//          shared memory. Up to 16 rows: tiles of 16 x 64, steps of 128, so a decode step has all
//          of K = 128 on its way at once. Up to 128 rows: 64 x 64. More: 64 x 128, so x, which is
//          twice as wide as w, comes half as often from the L2.
// Order    one accumulator an output, K ascending by 16, the same instructions in every tile: bits
//          of a row do not depend on the rows beside it. Columns beyond K are zeros.
// Oracle   the simple kernel and kernels/reference, under tests/contract/kernels.
#pragma once

#include "kernels/cuda/rounded_rows.cuh"
#include "kernels/cuda/simple/linear.cuh"
#include "kernels/cuda/tensor/lines.cuh"
#include "kernels/cuda/tensor/load8.cuh"

namespace choir::cuda {

struct HeadProblem {
  const float* x;
  const bf16* w;
  float* y;
  int64_t rows, heads;
  int32_t width, outputs;  // width: K
  int64_t x_token_stride, x_head_stride, w_head_stride;
  RoundedTo rounded;
  int32_t tiles;  // of one head's outputs
};

// kRowWarps of the four warps share a tile's rows, the others its outputs. kBlocks: that a
// multiprocessor is to have registers for.
template <int kRows_, int kOutputs_, int kStep_, int kRowWarps_, int kBlocks_>
struct HeadTile {
  static constexpr int kRows = kRows_;
  static constexpr int kOutputs = kOutputs_;
  static constexpr int kStep = kStep_;  // columns of K at a time in shared memory
  static constexpr int kRowWarps = kRowWarps_;
  static constexpr int kBlocks = kBlocks_;
};
using LowHeadTile = HeadTile<16, 64, 128, 1, 8>;
using HeadTile64 = HeadTile<64, 64, 64, 2, 4>;
using WideHeadTile = HeadTile<64, 128, 64, 2, 3>;
inline constexpr int64_t kWideRowsLeast = 129;

// kAcross: K runs across lines of w.
template <class Tile, bool kAcross>
struct MmaHeadKernel {
  static constexpr int kThreads = 128;
  static constexpr int kBlocksLeast = Tile::kBlocks;
  static constexpr int kRows = Tile::kRows;
  static constexpr int kOutputs = Tile::kOutputs;
  static constexpr int kStep = Tile::kStep;
  static constexpr int kWarpRows = kRows / Tile::kRowWarps;
  static constexpr int kWarpOutputs = kOutputs * Tile::kRowWarps / (kThreads / kWarp);
  static constexpr int kRowTiles = kWarpRows / 16;
  static constexpr int kPairs = kWarpOutputs / 16;  // of fragments
  static constexpr int kLines = kAcross ? kStep : kOutputs;
  static constexpr int kPitch = kAcross ? kOutputs : kStep;
  static constexpr int kStageElements = kOutputs * kStep;
  static constexpr int kLineUnits = kPitch / kUnit8;
  static constexpr int kLinesAtOnce = kThreads / kLineUnits;
  static constexpr int kRowThreads = kStep / 4;  // load a row of x together
  static constexpr int kRowsAtOnce = kThreads / kRowThreads;
  static constexpr int kThreadRows = kRows / kRowsAtOnce;

  static constexpr int64_t SharedBytes(int64_t width) {
    const int64_t stages = width > kStep ? 2 : 1;
    return static_cast<int64_t>(sizeof(bf16)) * (kRows * kStep + stages * kStageElements);
  }

  HeadProblem a;

  struct Work {
    const float* x;   // this thread's first four columns
    const bf16* w;    // this thread's first unit
    int32_t output0;  // of the tile
    int rows;         // of the tile that exist
    Wide16 four[kThreadRows];
  };
  struct Sums {
    float at[kRowTiles][2 * kPairs][4] = {};
  };

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t head = block.x() / a.tiles;
    const int64_t row0 = block.y() * kRows;
    Work work;
    work.output0 = static_cast<int32_t>(block.x() % a.tiles) * kOutputs;
    work.rows = static_cast<int>(a.rows - row0 < kRows ? a.rows - row0 : kRows);
    work.x = a.x + (row0 + Row(block)) * a.x_token_stride + head * a.x_head_stride + Column(block);
    work.w = a.w + head * a.w_head_stride +
             (kAcross ? int64_t{Line(block)} * a.outputs + work.output0 + Unit(block) * kUnit8
                      : int64_t{work.output0 + Line(block)} * a.width + Unit(block) * kUnit8);
    Sums sums;
    CopyWeights(block, work, 0, 0);
    CopyWeights(block, work, kStep, 1);
    LoadRows(block, 0, &work);
    int stage = 0;
    for (int32_t k0 = 0; k0 < a.width; k0 += kStep) {
      StoreRows(block, work);
      LoadRows(block, k0 + kStep, &work);
      block.template WaitCopies<1>();
      block.Sync();
      Multiply(block, work, a.width - k0, stage, sums);
      block.Sync();  // before the stage is overwritten
      CopyWeights(block, work, k0 + 2 * kStep, stage);
      stage = 1 - stage;
    }
    StoreSums(block, work, row0 * a.heads + head, sums);
  }

 private:
  template <class Block>
  CHOIR_DEVICE Lines RowsOf(Block& block) const {
    return {reinterpret_cast<bf16*>(block.shared()), kStep};
  }
  template <class Block>
  CHOIR_DEVICE Lines WeightsOf(Block& block, int stage) const {
    auto* first = reinterpret_cast<bf16*>(block.shared()) + kRows * kStep;
    return {first + stage * kStageElements, kPitch};
  }

  // What this thread copies first of the weights, and of x.
  template <class Block>
  CHOIR_DEVICE int Line(Block& block) const {
    return block.thread() / kLineUnits;
  }
  template <class Block>
  CHOIR_DEVICE int Unit(Block& block) const {
    return block.thread() % kLineUnits;
  }
  template <class Block>
  CHOIR_DEVICE int Row(Block& block) const {
    return block.thread() / kRowThreads;
  }
  template <class Block>
  CHOIR_DEVICE int Column(Block& block) const {
    return block.thread() % kRowThreads * 4;
  }

  // What lies beyond K or the outputs becomes zeros, and is not read. One group of copies, though
  // it be empty.
  template <class Block>
  CHOIR_DEVICE void CopyWeights(Block& block, const Work& work, int32_t k0, int stage) const {
    static_assert(kLinesAtOnce % 8 == 0);  // so all units of a thread are swapped alike
    if (k0 < a.width) {
      const bf16* from = work.w + (kAcross ? int64_t{k0} * a.outputs : k0);
      const int64_t next = int64_t{kLinesAtOnce} * (kAcross ? a.outputs : a.width);
      bf16* to = WeightsOf(block, stage).Unit(Line(block), Unit(block));
      const int32_t lines = (kAcross ? a.width - k0 : a.outputs - work.output0) - Line(block);
      const int32_t columns = kAcross ? a.outputs - work.output0 : a.width - k0;
      const bool unit_there = Unit(block) * kUnit8 < columns;
      CHOIR_UNROLL
      for (int i = 0; i < kLines / kLinesAtOnce; ++i) {
        block.CopyAsync(to + i * kLinesAtOnce * kPitch, from,
                        unit_there && i * kLinesAtOnce < lines);
        from += next;
      }
    }
    block.CommitCopies();
  }

  template <class Block>
  CHOIR_DEVICE void LoadRows(Block& block, int32_t k0, Work* work) const {
    const float* from = work->x + k0;
    const int rows = k0 + Column(block) < a.width ? work->rows - Row(block) : 0;
    CHOIR_UNROLL
    for (int i = 0; i < kThreadRows; ++i) {
      work->four[i] = {};
      if (i * kRowsAtOnce < rows) work->four[i] = *reinterpret_cast<const Wide16*>(from);
      from += kRowsAtOnce * a.x_token_stride;
    }
  }

  template <class Block>
  CHOIR_DEVICE void StoreRows(Block& block, const Work& work) const {
    const int column = Column(block);
    CHOIR_UNROLL
    for (int i = 0; i < kThreadRows; ++i) {
      const auto at = [&](int j) { return std::bit_cast<float>(work.four[i].words[j]); };
      bf16* to =
          RowsOf(block).Unit(Row(block) + i * kRowsAtOnce, column / kUnit8) + column % kUnit8;
      *reinterpret_cast<Wide8*>(to) = {
          {block.RoundPair(at(0), at(1)), block.RoundPair(at(2), at(3))}};
    }
  }

  template <class Block>
  CHOIR_DEVICE int WarpRow(Block& block) const {
    return block.warp() % Tile::kRowWarps * kWarpRows;
  }
  template <class Block>
  CHOIR_DEVICE int WarpOutput(Block& block) const {
    return block.warp() / Tile::kRowWarps * kWarpOutputs;
  }

  // As many instructions for each sum in every tile: none for 16 columns that are all beyond K.
  template <class Block>
  CHOIR_DEVICE void Multiply(Block& block, const Work& work, int32_t left, int stage,
                             Sums& sums) const {
    const int row0 = WarpRow(block);
    const int output0 = WarpOutput(block);
    if (row0 >= work.rows) return;
    const Lines x = RowsOf(block);
    const Lines w = WeightsOf(block, stage);
    const int columns = left < kStep ? left : kStep;
    CHOIR_ROLLED
    for (int k = 0; k < columns; k += 16) {
      uint32_t rows[kRowTiles][4];
      CHOIR_UNROLL
      for (int m = 0; m < kRowTiles; ++m) LoadA(block, x, row0 + m * 16, k / kUnit8, rows[m]);
      CHOIR_UNROLL
      for (int p = 0; p < kPairs; ++p) {
        const int output = output0 + p * 16;
        uint32_t weights[2][2];
        if constexpr (kAcross) {
          LoadAcross(block, w, k, output / kUnit8, weights);
        } else {
          LoadB(block, w, output, k / kUnit8, weights);
        }
        CHOIR_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          block.Mma(sums.at[m][2 * p], rows[m], weights[0]);
          block.Mma(sums.at[m][2 * p + 1], rows[m], weights[1]);
        }
      }
    }
  }

  // y_row0: of the tile's first row, in rows of `outputs`.
  template <class Block>
  CHOIR_DEVICE void StoreSums(Block& block, const Work& work, int64_t y_row0,
                              const Sums& sums) const {
    CHOIR_UNROLL
    for (int i = 0; i < 2 * kRowTiles; ++i) {
      const int row = WarpRow(block) + i / 2 * 16 + i % 2 * 8 + block.lane() / 4;
      if (row >= work.rows) continue;
      const int64_t y_row = y_row0 + row * a.heads;
      float* y = a.y + y_row * a.outputs;
      CHOIR_UNROLL
      for (int f = 0; f < 2 * kPairs; ++f) {
        const int32_t output = work.output0 + WarpOutput(block) + f * 8 + block.lane() % 4 * 2;
        const float* two = &sums.at[i / 2][f][i % 2 * 2];
        if (output >= a.outputs) continue;
        *reinterpret_cast<FloatPair*>(y + output) = {two[0], two[1]};
        if (a.rounded.data != nullptr) {
          a.rounded.PutPair(block, y_row / a.heads, y_row % a.heads * a.outputs + output, two[0],
                            two[1]);
        }
      }
    }
  }
};

// Strides, not the number of rows, say that all rows are aligned.
inline bool HasMmaForm(const HeadProjectArgs& a) {
  const auto aligned = [](const void* data, uintptr_t bytes) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0;
  };
  return a.compute == Compute::kBF16 && a.w.dtype() == DType::kBF16 && a.x.dim(2) % kUnit8 == 0 &&
         a.y.dim(2) % kUnit8 == 0 && a.w_head_stride % kUnit8 == 0 && a.x_token_stride % 4 == 0 &&
         a.x_head_stride % 4 == 0 && aligned(a.x.raw(), 16) && aligned(a.w.raw(), 16) &&
         aligned(a.y.raw(), 8);
}

template <class Tile, class Runner>
void ProjectTiles(HeadProblem problem, bool transpose, const Runner& run) {
  problem.tiles = static_cast<int32_t>(CeilDiv(problem.outputs, Tile::kOutputs));
  const auto with = [&](const auto& kernel) {
    run({.x = problem.heads * problem.tiles,
         .y = CeilDiv(problem.rows, Tile::kRows),
         .threads = kernel.kThreads,
         .shared_bytes = kernel.SharedBytes(problem.width)},
        kernel);
  };
  transpose ? with(MmaHeadKernel<Tile, false>{problem}) : with(MmaHeadKernel<Tile, true>{problem});
}

template <class Runner>
void MmaHeadProject(const HeadProjectArgs& a, const Runner& run) {
  const int64_t heads = a.x.dim(1);
  if (!HasMmaForm(a)) {
    HeadProject(a, run);
    const int64_t columns = heads * a.y.dim(2);
    return AlsoRounded(run, a.y, columns, columns, a.rounded);
  }
  const int64_t width = a.x.dim(2);
  CHOIR_CHECK(a.y.dim(0) == a.x.dim(0) && a.y.dim(1) == heads);
  const HeadProblem problem{
      .x = a.x.f32(),
      .w = a.w.b16(),
      .y = a.y.f32(),
      .rows = a.x.dim(0),
      .heads = heads,
      .width = static_cast<int32_t>(width),
      .outputs = static_cast<int32_t>(a.y.dim(2)),
      .x_token_stride = a.x_token_stride != 0 ? a.x_token_stride : heads * width,
      .x_head_stride = a.x_head_stride != 0 ? a.x_head_stride : width,
      .w_head_stride = a.w_head_stride,
      .rounded = RoundedToOf(a.rounded)};
  if (problem.rows <= LowHeadTile::kRows) {
    ProjectTiles<LowHeadTile>(problem, a.transpose, run);
  } else if (problem.rows < kWideRowsLeast || problem.outputs <= HeadTile64::kOutputs) {
    ProjectTiles<HeadTile64>(problem, a.transpose, run);
  } else {
    ProjectTiles<WideHeadTile>(problem, a.transpose, run);
  }
}

}  // namespace choir::cuda
