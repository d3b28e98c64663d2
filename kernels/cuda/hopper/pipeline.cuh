// The stages in shared memory that a loading warp fills and computing warpgroups empty.
#pragma once

#include "kernels/cuda/hopper/operands.cuh"

namespace choir::cuda {

// Weights x rows: both bf16; both f8; weights in f8, widened to bf16 for rows in bf16.
enum class Form : uint8_t { kBF16, kF8, kF8Wide };

inline constexpr int kComputeGroups = 2;  // of a block; where tiles are few, one of them rests
inline constexpr int kWaveOutputs = 64;   // of a warpgroup at a time, in one or two waves
inline constexpr int kHopperThreads = (kComputeGroups + 1) * kWarpgroup;
inline constexpr int kHopperShared = 227 * 1024;

// A stage: weights, of each wave and warpgroup a slice [64 lines]; rows [kRows lines, once or
// twice]; f8 also scales, of each row and of each slice.
template <Form kForm, int kRows, int kWaves, int kGroups>
struct Stages {
  static constexpr int kSlices = kGroups * kWaves;
  static constexpr int kColumns = kForm == Form::kBF16 ? 64 : 128;  // of K
  static constexpr int kLinesOfRow = kForm == Form::kF8Wide ? 2 : 1;
  static constexpr bool kRowScales = kForm == Form::kF8;
  static constexpr bool kScales = kForm != Form::kBF16;
  static constexpr int kWeightBytes = kSlices * kWaveOutputs * kLineBytes;
  static constexpr int kRowBytes = kRows * kLinesOfRow * kLineBytes;
  static constexpr int kOperandBytes = kWeightBytes + kRowBytes;
  static constexpr int kScaleCount = kScales ? kSlices + (kRowScales ? kRows : 0) : 0;
  static constexpr int kBytes = kOperandBytes + kScaleCount * 4 + 16;  // and two barriers
  static constexpr int kCount = kHopperShared / kBytes < 8 ? kHopperShared / kBytes : 8;
  static constexpr int kSharedBytes = kCount * kBytes;

  std::byte* shared;

  CHOIR_DEVICE std::byte* Weights(int stage, int slice) const {
    return shared + stage * kOperandBytes + slice * kWaveOutputs * kLineBytes;
  }
  CHOIR_DEVICE std::byte* Rows(int stage, int line) const {
    return shared + stage * kOperandBytes + kWeightBytes + line * kRows * kLineBytes;
  }
  CHOIR_DEVICE uint64_t* Full(int stage) const {
    return reinterpret_cast<uint64_t*>(shared + kCount * kOperandBytes) + stage;
  }
  CHOIR_DEVICE uint64_t* Empty(int stage) const { return Full(stage + kCount); }
  CHOIR_DEVICE float* SliceScales(int stage) const {
    return reinterpret_cast<float*>(shared + kCount * (kOperandBytes + 16)) + stage * kScaleCount;
  }
  CHOIR_DEVICE float* RowScales(int stage) const { return SliceScales(stage) + kSlices; }

  // All threads of the block.
  template <class Block>
  CHOIR_DEVICE void Init(Block& block) const {
    if (block.thread() == 0) {
      for (int i = 0; i < kCount; ++i) {
        block.InitBarrier(Full(i), kScales ? 1 + kWarp : 1);
        block.InitBarrier(Empty(i), kGroups * kWarpgroup / kWarp);
      }
      block.FenceBarriers();
    }
    block.Sync();
  }
};

// Where one of the two sides is on its way round the stages.
template <int kCount>
struct StageCursor {
  int stage = 0;
  uint32_t phase = 0;

  CHOIR_DEVICE void Next() {
    if (++stage < kCount) return;
    stage = 0;
    phase ^= 1;
  }
};

}  // namespace choir::cuda
