// Rows of experts times their experts' weights on Hopper, for any epilogue.
// Shapes   x [R, K]; of each expert one matrix [N, K], or two (gate and up); out: the epilogue's.
//          bf16 · bf16; f8 · f8 with scales of 128 columns of a row and of 128 x 128 weights; f8
//          weights · bf16 rows.  REQUIRES: rows of both begin at multiples of 16 bytes.
// Bound    flops 2·R·N·K, bytes ≈ E_active·N·K·size. On an H200 (1,979 and 989 TFLOPS, 4.8 TB/s)
//          rows per expert at which arithmetic becomes the wall: about 206 (f8 and bf16).
// Plan     a block an SM, which walks over tiles of 256 outputs by kRows rows (tiles.cuh), or of
//          128 or 64 where tiles are few. One warp loads, two warpgroups (of 64 outputs: one)
//          compute their share of the outputs:
//          outputs = WGMMA's 64 lines, rows = its columns. So a tile with few rows costs little,
//          and weights of 8 bits can be widened in registers. f8: a wave of 64 outputs is summed
//          over 128 columns, then added with its scales, while the other warpgroup has the tensor
//          cores. Why so: decisions/0035. Barriers are made, and weights of a dense product are
//          on their way, before the kernel ahead has ended: decisions/0046.
// Order    bf16: WGMMA's own, K ascending in steps of 16. f8: WGMMA's over 128 columns, then one
//          FMA with the scales, ascending. So bits depend on a row and its weights alone, if those
//          of WGMMA do not depend on a column's place; what checks it on a card is
//          worker/kernel_check.h.
// Oracle   the simple kernels and kernels/reference, under tests/contract/kernels.
#pragma once

#include "kernels/cuda/hopper/pipeline.cuh"
#include "kernels/cuda/hopper/tiles.cuh"
#include "kernels/cuda/hopper/widen.cuh"
#include "kernels/cuda/math.cuh"

namespace choir::cuda {

// The matrices of an expert, in the kernel's parameters.
template <int kMatrices>
struct ExpertOperand {
  TensorMap map[kMatrices];
  const float* scale[kMatrices];
  Elements bias;
};

// kExperts == 1: one matrix with the experts' outputs one below the other.
template <int kMatrices, int kExperts, int kWavesOfGroup = 2, int kGroupsOfBlock = kComputeGroups>
struct WeightSide {
  static constexpr int kWaves = kWavesOfGroup;
  static constexpr int kGroups = kGroupsOfBlock;  // that compute
  static constexpr int kSlices = kGroups * kWaves;
  static constexpr int kTileOutputs = kSlices * kWaveOutputs / kMatrices;

  ExpertOperand<kMatrices> of[kExperts];
  int32_t outputs = 0;                            // of a matrix
  int32_t outputs_each = 0, scale_rows_each = 0;  // one matrix for all: an expert's part
  int32_t scale_width = 0;
  int32_t scale_side = 128;  // outputs that share a scale

  CHOIR_DEVICE const ExpertOperand<kMatrices>& Of(int32_t expert) const {
    return of[kExperts == 1 ? 0 : expert];
  }
  // Tiles of an expert's outputs, which one a tile is, and how many outputs its matrix has.
  constexpr int32_t Tiles() const { return (outputs + kTileOutputs - 1) / kTileOutputs; }
  CHOIR_DEVICE void Place(RowTile*) const {}
  CHOIR_DEVICE int32_t OutputsOf(const RowTile&) const { return outputs; }

  // Slices of a tile: of two matrices they alternate, so that a thread has a gate and its up.
  CHOIR_DEVICE static int MatrixOf(int slice) { return slice % kMatrices; }
  CHOIR_DEVICE static int32_t OutputOf(const RowTile& t, int slice) {
    return t.output_tile * kTileOutputs + slice / kMatrices * kWaveOutputs;
  }
};

template <Form kForm, int kRows, class Weights, class Epilogue>
struct ProductKernel {
  static constexpr int kWaves = Weights::kWaves;
  static constexpr int kSlices = Weights::kSlices;
  using Stage = Stages<kForm, kRows, kWaves, Weights::kGroups>;
  using Cursor = StageCursor<Stage::kCount>;
  static constexpr int kThreads = kHopperThreads;
  static constexpr bool kAwaitsEarlier = true;
  static constexpr int kSums = kRows / 2;  // of a thread and wave
  static constexpr int kSteps = 4;         // of 32 bytes in a line

  TensorMap x;
  const float* x_scale;
  int64_t x_scale_pitch;
  RowGroups groups;
  int32_t width;   // of an expert's matrix
  int32_t blocks;  // of the grid
  Weights weights;
  Epilogue epilogue;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const Stage stages{block.shared()};
    stages.Init(block);
    const int group = block.warpgroup();
    if (group == kComputeGroups) {
      block.template GiveRegisters<40>();
      const bool loads = block.warp() == kComputeGroups * kWarpgroup / kWarp;
      if (loads && block.lane() == 0) block.PrefetchMap(x);
      const int32_t ahead = loads ? LoadWeightsAhead(block, stages) : 0;
      block.AwaitEarlier();
      if (loads) Load(block, stages, ahead);
    } else {
      if constexpr (Weights::kGroups < kComputeGroups) {
        if (group >= Weights::kGroups) return block.AwaitEarlier();
      }
      block.template TakeRegisters<232>();
      block.AwaitEarlier();
      Compute(block, stages, group);
    }
  }

 private:
  template <class Block>
  CHOIR_DEVICE TileWalk<kRows> Walk(const Block& block) const {
    return {groups, weights.Tiles(), block.x(), blocks};
  }
  CHOIR_DEVICE bool Next(TileWalk<kRows>* walk, RowTile* tile) const {
    if (!walk->Next(tile)) return false;
    weights.Place(tile);
    return true;
  }
  CHOIR_DEVICE int32_t Steps() const { return (width + Stage::kColumns - 1) / Stage::kColumns; }

  // The loading warp, while the kernel ahead may still run: fills the first stages with weights,
  // and gives how many. Of an epilogue that says kWeightsAhead: its rows are one group, and whoever
  // launches it launches a kernel ahead that does not write the weights. What did has ended: the
  // one ahead awaited it before it let this one start.
  template <class Block>
  CHOIR_DEVICE int32_t LoadWeightsAhead(Block& block, const Stage& stages) const {
    if constexpr (!requires { Epilogue::kWeightsAhead; }) return 0;
    const RowGroups all{.rows_each = groups.rows_each, .experts = 1};
    RowTile tile;
    TileWalk<kRows> walk(all, weights.Tiles(), block.x(), blocks);
    if (!Next(&walk, &tile)) return 0;
    const int32_t ahead = Steps() < Stage::kCount ? Steps() : Stage::kCount;
    CHOIR_ROLLED
    for (int32_t step = 0; step < ahead && block.lane() == 0; ++step) {
      LoadWeights(block, stages, step, tile, step);
    }
    return ahead;
  }

  // The loading warp; of the first `ahead` stages weights are on their way.
  template <class Block>
  CHOIR_DEVICE void Load(Block& block, const Stage& stages, int32_t ahead) const {
    Cursor at;
    RowTile tile;
    for (auto walk = Walk(block); Next(&walk, &tile);) {
      for (int32_t step = 0; step < Steps(); ++step, at.Next()) {
        block.AwaitPhase(stages.Empty(at.stage), at.phase ^ 1);
        block.SyncWarp();  // or a lane that is late misses this phase and waits for ever
        if (block.lane() == 0) {
          if (ahead-- <= 0) LoadWeights(block, stages, at.stage, tile, step);
          LoadRows(block, stages, at.stage, tile, step);
        }
        if constexpr (Stage::kScales) {
          LoadScales(block, stages, at.stage, tile, step);
          block.ArriveAfterCopies(stages.Full(at.stage));
        }
      }
    }
  }

  // Also expects the rows.
  template <class Block>
  CHOIR_DEVICE void LoadWeights(Block& block, const Stage& stages, int stage, const RowTile& tile,
                                int32_t step) const {
    uint64_t* full = stages.Full(stage);
    block.ArriveExpecting(full, Stage::kOperandBytes);
    const auto& of = weights.Of(tile.expert);
    const int32_t above = weights.outputs_each * tile.expert;
    CHOIR_UNROLL
    for (int q = 0; q < kSlices; ++q) {
      const int32_t from[2] = {step * Stage::kColumns, above + Weights::OutputOf(tile, q)};
      block.LoadTile(of.map[Weights::MatrixOf(q)], from, stages.Weights(stage, q), full);
    }
  }

  template <class Block>
  CHOIR_DEVICE void LoadRows(Block& block, const Stage& stages, int stage, const RowTile& tile,
                             int32_t step) const {
    CHOIR_UNROLL
    for (int line = 0; line < Stage::kLinesOfRow; ++line) {
      const int32_t from[2] = {step * Stage::kColumns + line * 64, tile.row0};
      block.LoadTile(x, from, stages.Rows(stage, line), stages.Full(stage));
    }
  }

  template <class Block>
  CHOIR_DEVICE void LoadScales(Block& block, const Stage& stages, int stage, const RowTile& tile,
                               int32_t step) const {
    const int lane = block.lane();
    if (lane < kSlices && Weights::OutputOf(tile, lane) < weights.OutputsOf(tile)) {
      const int32_t row = weights.scale_rows_each * tile.expert +
                          Weights::OutputOf(tile, lane) / weights.scale_side;
      const float* scales = weights.Of(tile.expert).scale[Weights::MatrixOf(lane)];
      block.CopyAsync4(stages.SliceScales(stage) + lane,
                       scales + static_cast<int64_t>(row) * weights.scale_width + step);
    }
    if constexpr (Stage::kRowScales) {
      for (int r = lane; r < tile.rows; r += kWarp) {
        block.CopyAsync4(stages.RowScales(stage) + r,
                         x_scale + (tile.row0 + r) * x_scale_pitch + step);
      }
    }
  }

  // A computing warpgroup.
  template <class Block>
  CHOIR_DEVICE void Compute(Block& block, const Stage& stages, int group) const {
    Cursor at;
    RowTile tile;
    for (auto walk = Walk(block); Next(&walk, &tile);) {
      float sums[kWaves][kSums];
      if constexpr (kForm == Form::kBF16) {
        SumDirectly(block, stages, group, at, sums);
      } else {
        SumByParts(block, stages, group, at, sums);
      }
      const int32_t output0 = Weights::OutputOf(tile, group * kWaves);
      epilogue(block, weights.Of(tile.expert), tile, output0, sums);
    }
  }

  // The stage may be filled again. All lanes of the warp have read what they need of it.
  template <class Block>
  CHOIR_DEVICE void Release(Block& block, const Stage& stages, int stage) const {
    block.SyncWarp();
    if (block.lane() == 0) block.Arrive(stages.Empty(stage));
  }

  template <class Block>
  CHOIR_DEVICE static void PinAll(Block& block, float (&sums)[kWaves][kSums]) {
    CHOIR_UNROLL
    for (int wave = 0; wave < kWaves; ++wave) block.Pin(sums[wave]);
  }

  template <class Block>
  CHOIR_DEVICE void SumDirectly(Block& block, const Stage& stages, int group, Cursor& at,
                                float (&sums)[kWaves][kSums]) const {
    int before = 0;
    for (int32_t step = 0; step < Steps(); ++step, at.Next()) {
      block.AwaitPhase(stages.Full(at.stage), at.phase);
      PinAll(block, sums);
      block.WgmmaFence();
      CHOIR_UNROLL
      for (int wave = 0; wave < kWaves; ++wave) {
        Multiply(block, stages, at.stage, group * kWaves + wave, step > 0, sums[wave]);
      }
      block.WgmmaCommit();
      block.template WgmmaWait<1>();  // the step before: its stage is free
      if (step > 0) Release(block, stages, before);
      before = at.stage;
    }
    block.template WgmmaWait<0>();
    PinAll(block, sums);
    Release(block, stages, before);
  }

  // One line of K of 64 outputs, from shared memory on both sides.
  template <class Block>
  CHOIR_DEVICE void Multiply(Block& block, const Stage& stages, int stage, int slice, bool add,
                             float (&d)[kSums]) const {
    const uint64_t a = OperandAt(block.SharedAddress(stages.Weights(stage, slice)));
    const uint64_t b = OperandAt(block.SharedAddress(stages.Rows(stage, 0)));
    CHOIR_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      block.template Wgmma<kForm == Form::kF8>(d, a + i * kOperandStep, b + i * kOperandStep,
                                               add || i > 0);
    }
  }

  template <class Block>
  CHOIR_DEVICE void SumByParts(Block& block, const Stage& stages, int group, Cursor& at,
                               float (&sums)[kWaves][kSums]) const {
    CHOIR_UNROLL
    for (int wave = 0; wave < kWaves; ++wave) {
      CHOIR_UNROLL
      for (int i = 0; i < kSums; ++i) sums[wave][i] = 0.0f;
    }
    for (int32_t step = 0; step < Steps(); ++step, at.Next()) {
      block.AwaitPhase(stages.Full(at.stage), at.phase);
      CHOIR_UNROLL
      for (int wave = 0; wave < kWaves; ++wave) {
        const int slice = group * kWaves + wave;
        float part[kSums];
        if constexpr (kForm == Form::kF8) {
          block.Pin(part);
          block.WgmmaFence();
          Multiply(block, stages, at.stage, slice, false, part);
          block.WgmmaCommit();
          block.template WgmmaWait<0>();
        } else {
          MultiplyWidened(block, stages, at.stage, slice, part);
        }
        block.Pin(part);
        AddPart(block, stages, at.stage, slice, part, sums[wave]);
      }
      Release(block, stages, at.stage);
    }
  }

  // 128 columns of 64 outputs: weights as fragments in registers. While the tensor cores have one
  // half of the columns the other one is widened.
  template <class Block>
  CHOIR_DEVICE void MultiplyWidened(Block& block, const Stage& stages, int stage, int slice,
                                    float (&part)[kSums]) const {
    uint32_t a[2][kSteps][4];
    block.Pin(part);
    CHOIR_UNROLL
    for (int half = 0; half < 2; ++half) {
      WidenWeights(block, stages.Weights(stage, slice), half, a[half]);
      const uint64_t b = OperandAt(block.SharedAddress(stages.Rows(stage, half)));
      block.WgmmaFence();
      CHOIR_UNROLL
      for (int i = 0; i < kSteps; ++i) {
        block.template Wgmma<false>(part, a[half][i], b + i * kOperandStep, half + i > 0);
      }
      block.WgmmaCommit();
    }
    block.template WgmmaWait<0>();  // fragments are read until then
  }

  // sums += part · scales. A thread has of every 8 rows numbers 2t and 2t + 1, and two outputs.
  template <class Block>
  CHOIR_DEVICE void AddPart(Block& block, const Stage& stages, int stage, int slice,
                            const float (&part)[kSums], float (&sums)[kSums]) const {
    const float weight_scale = stages.SliceScales(stage)[slice];
    const float* row_scales = stages.RowScales(stage) + block.lane() % 4 * 2;
    CHOIR_UNROLL
    for (int j = 0; j < kRows / 8; ++j) {
      CHOIR_UNROLL
      for (int i = 0; i < 2; ++i) {
        float scale = weight_scale;
        if constexpr (Stage::kRowScales) scale = row_scales[8 * j + i] * weight_scale;
        sums[4 * j + i] = Fma(part[4 * j + i], scale, sums[4 * j + i]);
        sums[4 * j + 2 + i] = Fma(part[4 * j + 2 + i], scale, sums[4 * j + 2 + i]);
      }
    }
  }
};

}  // namespace choir::cuda
