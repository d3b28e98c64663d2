// linear with Compute::kF32 in plain FP32 FMA, for few outputs of a wide K: the router.
// Shapes   x [T,K] f32; w [N,K] f32, bf16 or f16; y [T,N] f32; any T, N and K, rows at any place.
//          f8 and f4 go the simple way. What decides is w's format alone, so no bit depends on it.
// Bound    flops 2·T·N·K against FP32 FMA, bytes N·K·size of w for few rows. The router of
//          DeepSeek-V3, 256 x 7,168 in f32, is 7.3 MB: 1.5 µs at 4.8 TB/s. Arithmetic is the wall
//          from about 25 rows on: 4.0 µs at 64 rows, 7.9 at 128, 254 at 4,096 (by count, 132
//          multiprocessors at 1.75 GHz).
// Plan     a block a tile of 16 rows x 32 outputs, or of 64 x 64, of one part of 256 columns; a
//          second kernel adds the parts. The router at up to 16 rows is 224 blocks, at 64 112.
//          Where tiles alone fill the card, or the workspace has no room for all sums of parts, a
//          block walks all parts itself.
//          A thread of 64 x 64 has 16 rows x 2 outputs: eight columns are 36 loads of 16 bytes from
//          shared memory and 256 FMA, of 300 instructions (90a). A warp reads a row as one address
//          and 32 outputs without conflicts: of four warps 192 wavefronts in 256 clocks, so FMA is
//          the wall. Rows that do not exist are computed only up to 1, 2, 4, 8 or 16 a thread.
//          Up to 16 rows all that a block needs of its part is under way at once.
// Order    of a sum: the columns of each part ascending, by FMA from 0 on; then parts ascending,
//          the first as it is. K ends with zeros up to a multiple of 32. Then bias, then y.
//          Neither T, N, the card nor the workspace changes it.
// Oracle   kernels/reference/linear.cc, tests/contract/kernels/f32_linear_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/simple/linear.cuh"
#include "kernels/cuda/tensor/load8.cuh"
#include "kernels/cuda/upload.cuh"

namespace choir::cuda {

inline constexpr int kF32Warps = 4;
inline constexpr int kF32Threads = kF32Warps * kWarp;
inline constexpr int kF32Chunk = 32;      // columns of a stage in shared memory
inline constexpr int kF32PartChunks = 8;  // of a part: 256 columns. Changes bits
inline constexpr int kF32SumThreads = 128;
inline constexpr int64_t kF32PartColumns = kF32Chunk * kF32PartChunks;
inline constexpr float kF32Nothing = -0.0f;  // adds nothing to any value, 0 and -0 among them

// A thread's rows lie kF32Warps apart, its outputs kWarp.
template <int kRowsEach, int kOutputsEach, int kStagesOf>
struct F32Tile {
  static constexpr int kThreadRows = kRowsEach;  // a power of 2
  static constexpr int kThreadOutputs = kOutputsEach;
  static constexpr int kStages = kStagesOf;
  static constexpr int kRows = kRowsEach * kF32Warps;
  static constexpr int kOutputs = kOutputsEach * kWarp;
};
using FewF32Rows = F32Tile<4, 1, 9>;
using ManyF32Rows = F32Tile<16, 2, 4>;

// Lines of a matrix on their way to shared memory, 16 bytes at a time.
template <DType kDtype>
struct F32Lines {
  using Unit = std::conditional_t<kDtype == DType::kF32, uint32_t, uint16_t>;
  static constexpr int kEach = 16 / static_cast<int>(sizeof(Unit));
  static constexpr int kPieces = kF32Chunk / kEach;  // of a chunk

  const Unit* first;  // line that the block has
  int64_t width;
  int there;     // lines from there on
  bool aligned;  // all lines, to 16 bytes

  // Columns [k0, k0 + kF32Chunk) of `lines` lines, which come to lie `pitch` bytes apart; zeros
  // where there is nothing. In the open group of copies.
  template <class Block>
  CHOIR_DEVICE void Load(Block& block, int lines, int64_t k0, std::byte* to, int pitch) const {
    for (int i = block.thread(); i < lines * kPieces; i += kF32Threads) {
      const int line = i / kPieces;
      const int piece = i % kPieces;
      const int64_t k = k0 + piece * kEach;
      std::byte* at = to + line * pitch + piece * 16;
      const bool exists = line < there && k < width;
      const Unit* from = exists ? first + line * width + k : first;
      if (aligned) {
        block.CopyAsync(at, from, exists);
      } else {
        *reinterpret_cast<Wide16*>(at) = Gather(from, exists ? width - k : 0);
      }
    }
  }

 private:
  CHOIR_DEVICE static Wide16 Gather(const Unit* from, int64_t left) {
    constexpr int kInWord = static_cast<int>(sizeof(uint32_t) / sizeof(Unit));
    Wide16 piece{};
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const uint32_t unit = i < left ? from[i] : 0;
      piece.words[i / kInWord] |= unit << (i % kInWord * 16);
    }
    return piece;
  }
};

// Eight elements from shared memory.
template <DType kDtype>
CHOIR_DEVICE void GetEight(const std::byte* from, float (&out)[8]) {
  const auto* wide = reinterpret_cast<const Wide16*>(from);
  if constexpr (kDtype == DType::kF32) {
    const Wide16 halves[2] = {wide[0], wide[1]};
    CHOIR_UNROLL
    for (int i = 0; i < 8; ++i) out[i] = std::bit_cast<float>(halves[i / 4].words[i % 4]);
  } else {
    const Wide16 eight = *wide;
    CHOIR_UNROLL
    for (int i = 0; i < 8; ++i) {
      const auto half = static_cast<uint16_t>(eight.words[i / 2] >> (i % 2 * 16));
      out[i] = kDtype == DType::kBF16 ? ToF32(half) : F16ToF32(half);
    }
  }
}

// Where sums end.
struct F32Result {
  Elements bias;  // without data: none
  float* y;
  int64_t outputs;
  bool accumulate;

  CHOIR_DEVICE void Put(int64_t row, int64_t output, float sum) const {
    float* to = y + row * outputs + output;
    if (bias.data != nullptr) sum += At(bias, output);
    *to = accumulate ? *to + sum : sum;
  }
};

template <class Tile, DType kWeights>
struct F32LinearKernel {
  static constexpr int kThreads = kF32Threads;
  static constexpr int kBlocksLeast = 3;
  using RowLines = F32Lines<DType::kF32>;
  using WeightLines = F32Lines<kWeights>;
  static constexpr int kRowPitch = kF32Chunk * 4;  // a warp reads one row at a time
  // An odd number of 16 bytes: those of eight lines are in all banks.
  static constexpr int kWeightPitch = WeightLines::kPieces * 16 + 16;
  static constexpr int kRowBytes = Tile::kRows * kRowPitch;
  static constexpr int kStageBytes = kRowBytes + Tile::kOutputs * kWeightPitch;
  static constexpr int64_t kShared = Tile::kStages * kStageBytes;

  RowLines x;
  WeightLines w;
  F32Result result;
  float* parts;  // [parts of K, rows, outputs]; null: a block walks all of them
  int64_t rows;
  int64_t output_tiles;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t left = rows - block.y() * Tile::kRows;
    const int of_warp = (Least(left, Tile::kRows) + kF32Warps - 1) / kF32Warps;
    WithRows<1>(block, of_warp);
  }

 private:
  // Of the block's.
  struct Work {
    RowLines x;
    WeightLines w;
    int64_t row0, output0;
    int64_t part;         // or 0
    int64_t chunk0, end;  // of K
  };

  template <int kEach, class Block>
  CHOIR_DEVICE void WithRows(Block& block, int of_warp) const {
    if constexpr (kEach < Tile::kThreadRows) {
      if (of_warp > kEach) return WithRows<2 * kEach>(block, of_warp);
    }
    Product<kEach>(block, WorkOf(block));
  }

  template <class Block>
  CHOIR_DEVICE Work WorkOf(Block& block) const {
    Work work{x, w};
    work.part = block.x() / output_tiles;
    work.row0 = block.y() * Tile::kRows;
    work.output0 = block.x() % output_tiles * Tile::kOutputs;
    work.x.first += work.row0 * x.width;
    work.x.there = Least(rows - work.row0, Tile::kRows);
    work.w.first += work.output0 * w.width;
    work.w.there = Least(result.outputs - work.output0, Tile::kOutputs);
    work.chunk0 = work.part * kF32PartChunks;
    work.end = CeilDiv(x.width, kF32Chunk);
    if (parts != nullptr && work.end > work.chunk0 + kF32PartChunks) {
      work.end = work.chunk0 + kF32PartChunks;
    }
    return work;
  }

  // kEach rows a thread, of which the last may not exist. The stage that a chunk is loaded to was
  // read before the last Sync().
  template <int kEach, class Block>
  CHOIR_DEVICE void Product(Block& block, const Work& work) const {
    constexpr int kAhead = Tile::kStages - 1;
    float sums[kEach][Tile::kThreadOutputs] = {}, total[kEach][Tile::kThreadOutputs];
    CHOIR_UNROLL
    for (int r = 0; r < kEach; ++r) {
      CHOIR_UNROLL
      for (int o = 0; o < Tile::kThreadOutputs; ++o) total[r][o] = kF32Nothing;
    }
    for (int i = 0; i < kAhead; ++i) Load<kEach>(block, work, work.chunk0 + i);
    CHOIR_ROLLED
    for (int64_t chunk = work.chunk0; chunk < work.end; ++chunk) {
      block.template WaitCopies<kAhead - 1>();
      block.Sync();
      Load<kEach>(block, work, chunk + kAhead);
      if (block.warp() < work.x.there) Step<kEach>(block, StageOf(block, chunk), sums);
      if ((chunk + 1) % kF32PartChunks != 0 && chunk + 1 != work.end) continue;
      CHOIR_UNROLL
      for (int r = 0; r < kEach; ++r) {
        CHOIR_UNROLL
        for (int o = 0; o < Tile::kThreadOutputs; ++o) {
          total[r][o] += sums[r][o];
          sums[r][o] = 0.0f;
        }
      }
    }
    Store<kEach>(block, work, total);
  }

  template <class Block>
  CHOIR_DEVICE static std::byte* StageOf(Block& block, int64_t chunk) {
    return block.shared() + static_cast<int>(chunk % Tile::kStages) * kStageBytes;
  }

  // Ends a group of copies, which is empty behind the last chunk.
  template <int kEach, class Block>
  CHOIR_DEVICE void Load(Block& block, const Work& work, int64_t chunk) const {
    if (chunk < work.end) {
      std::byte* stage = StageOf(block, chunk);
      const int64_t k0 = chunk * kF32Chunk;
      work.x.Load(block, kEach * kF32Warps, k0, stage, kRowPitch);
      work.w.Load(block, Tile::kOutputs, k0, stage + kRowBytes, kWeightPitch);
    }
    block.CommitCopies();
  }

  template <int kEach, class Block>
  CHOIR_DEVICE void Step(Block& block, const std::byte* stage,
                         float (&sums)[kEach][Tile::kThreadOutputs]) const {
    constexpr int kTogether = kEach < 2 ? 1 : 2;  // rows whose chains of FMA run side by side
    const std::byte* row = stage + block.warp() * kRowPitch;
    const std::byte* output = stage + kRowBytes + block.lane() * kWeightPitch;
    CHOIR_ROLLED
    for (int k = 0; k < kF32Chunk; k += 8) {
      float weights[Tile::kThreadOutputs][8];
      CHOIR_UNROLL
      for (int o = 0; o < Tile::kThreadOutputs; ++o) {
        GetEight<kWeights>(
            output + o * kWarp * kWeightPitch + k * sizeof(typename WeightLines::Unit), weights[o]);
      }
      CHOIR_UNROLL
      for (int r0 = 0; r0 < kEach; r0 += kTogether) {
        float values[kTogether][8];
        CHOIR_UNROLL
        for (int r = 0; r < kTogether; ++r) {
          GetEight<DType::kF32>(row + (r0 + r) * kF32Warps * kRowPitch + k * 4, values[r]);
        }
        AddEight<kTogether>(values, weights, &sums[r0]);
      }
    }
  }

  template <int kTogether>
  CHOIR_DEVICE static void AddEight(const float (&values)[kTogether][8],
                                    const float (&weights)[Tile::kThreadOutputs][8],
                                    float (*sums)[Tile::kThreadOutputs]) {
    CHOIR_UNROLL
    for (int i = 0; i < 8; ++i) {
      CHOIR_UNROLL
      for (int r = 0; r < kTogether; ++r) {
        CHOIR_UNROLL
        for (int o = 0; o < Tile::kThreadOutputs; ++o) {
          sums[r][o] = Fma(values[r][i], weights[o][i], sums[r][o]);
        }
      }
    }
  }

  template <int kEach, class Block>
  CHOIR_DEVICE void Store(Block& block, const Work& work,
                          const float (&total)[kEach][Tile::kThreadOutputs]) const {
    CHOIR_UNROLL
    for (int r = 0; r < kEach; ++r) {
      const int line = block.warp() + r * kF32Warps;
      CHOIR_UNROLL
      for (int o = 0; o < Tile::kThreadOutputs; ++o) {
        const int column = block.lane() + o * kWarp;
        if (line >= work.x.there || column >= work.w.there) continue;
        const int64_t row = work.row0 + line, output = work.output0 + column;
        if (parts == nullptr) {
          result.Put(row, output, total[r][o]);
        } else {
          parts[(work.part * rows + row) * result.outputs + output] = total[r][o];
        }
      }
    }
  }
};

// Adds the parts of each sum; those of a batch are read at once.
struct F32SumKernel {
  static constexpr int kBatch = 16;
  const float* parts;
  int64_t num_parts, rows;
  F32Result result;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t each = rows * result.outputs;
    const int64_t i = block.x() * kF32SumThreads + block.thread();
    if (i >= each) return;
    float sum = kF32Nothing;
    for (int64_t first = 0; first < num_parts; first += kBatch) {
      float values[kBatch];
      CHOIR_UNROLL
      for (int p = 0; p < kBatch; ++p) {
        values[p] = first + p < num_parts ? parts[(first + p) * each + i] : kF32Nothing;
      }
      CHOIR_UNROLL
      for (int p = 0; p < kBatch; ++p) sum += values[p];
    }
    result.Put(i / result.outputs, i % result.outputs, sum);
  }
};

template <class Tile, DType kWeights, class Runner>
void F32LinearIn(const LinearArgs& a, const Runner& run) {
  using Kernel = F32LinearKernel<Tile, kWeights>;
  const int64_t rows = a.x.dim(0), outputs = a.w.dim(0), width = a.x.dim(1);
  const int64_t row_tiles = CeilDiv(rows, Tile::kRows);
  const int64_t output_tiles = CeilDiv(outputs, Tile::kOutputs);
  const int64_t num_parts = CeilDiv(width, kF32PartColumns);
  const int64_t sums = num_parts * rows * outputs;
  Upload<Runner> upload(run);
  // From one and a half tiles a multiprocessor on, what parts cost is more than what they gain.
  const bool in_parts = num_parts > 1 &&
                        2 * row_tiles * output_tiles < 3 * run.card().multiprocessors &&
                        UploadBytes(static_cast<size_t>(sums) * sizeof(float)) <= upload.left();
  const auto aligned = [width](const TensorView& t) {
    return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 && BytesOf(t.dtype(), width) % 16 == 0;
  };
  using XUnit = typename Kernel::RowLines::Unit;
  using WUnit = typename Kernel::WeightLines::Unit;
  const Kernel kernel{.x = {static_cast<const XUnit*>(a.x.raw()), width, 0, aligned(a.x)},
                      .w = {static_cast<const WUnit*>(a.w.raw()), width, 0, aligned(a.w)},
                      .result = {{a.bias.raw(), a.bias.dtype()}, a.y.f32(), outputs, a.accumulate},
                      .parts = in_parts ? upload.template Room<float>(sums) : nullptr,
                      .rows = rows,
                      .output_tiles = output_tiles};
  run({.x = output_tiles * (in_parts ? num_parts : 1),
       .y = row_tiles,
       .threads = kF32Threads,
       .shared_bytes = Kernel::kShared},
      kernel);
  if (!in_parts) return;
  run({.x = CeilDiv(rows * outputs, kF32SumThreads), .threads = kF32SumThreads},
      F32SumKernel{kernel.parts, num_parts, rows, kernel.result});
}

template <DType kWeights, class Runner>
void F32LinearOf(const LinearArgs& a, const Runner& run) {
  if (a.x.dim(0) <= FewF32Rows::kRows) {
    F32LinearIn<FewF32Rows, kWeights>(a, run);
  } else {
    F32LinearIn<ManyF32Rows, kWeights>(a, run);
  }
}

// False: it is not of these, and nothing was done.
template <class Runner>
bool F32Linear(const LinearArgs& a, const Runner& run) {
  if (a.compute != Compute::kF32) return false;
  CHOIR_CHECK(a.x.dim(1) == a.w.dim(1) && a.y.dim(0) == a.x.dim(0) && a.y.dim(1) == a.w.dim(0));
  if (a.w.dtype() == DType::kF32) {
    F32LinearOf<DType::kF32>(a, run);
  } else if (a.w.dtype() == DType::kBF16) {
    F32LinearOf<DType::kBF16>(a, run);
  } else if (a.w.dtype() == DType::kF16) {
    F32LinearOf<DType::kF16>(a, run);
  } else {
    return false;
  }
  return true;
}

}  // namespace choir::cuda
