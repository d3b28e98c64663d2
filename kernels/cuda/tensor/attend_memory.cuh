// Shared memory of a block of attention on tensor cores.
#pragma once

#include "kernels/cuda/tensor/attend_problem.cuh"
#include "kernels/cuda/tensor/lines.cuh"

namespace choir::cuda {

// Sizes of a block's memory, in bytes or elements.
struct AttendSizes {
  int32_t queries;
  int32_t k_pitch, v_pitch;  // v_pitch 0: values are columns of keys
  int32_t stages;            // tiles of keys at a time: 2: the next is on its way

  CHOIR_DEVICE int32_t StageElements() const { return kTileKeys * (k_pitch + v_pitch); }
};

inline constexpr int kFloatsOfQuery = 12;

constexpr int64_t SharedBytes(const AttendSizes& s) {
  const int64_t halves = int64_t{s.queries} * (s.k_pitch + kTileKeys) +
                         int64_t{s.stages} * kTileKeys * (s.k_pitch + s.v_pitch);
  return halves * static_cast<int64_t>(sizeof(bf16)) +
         int64_t{s.queries} * kFloatsOfQuery * static_cast<int64_t>(sizeof(float));
}

inline constexpr int kKeyWarps = 4;  // share the keys of a tile: 16 each

// Everything at a distance from one address that is known when compiled, but for stages.
template <int kQueries>
struct TileMemory {
  std::byte* base;
  int32_t k_pitch;

  CHOIR_DEVICE float* Floats(int of_query) const {
    return reinterpret_cast<float*>(base) + of_query * kQueries;
  }
  // [2][queries]: largest score of the chunk so far; tiles use them in turn
  CHOIR_DEVICE float* tops() const { return Floats(0); }
  CHOIR_DEVICE float* sums() const { return Floats(2); }
  // What a tile of keys leaves of earlier results.
  CHOIR_DEVICE float* keeps() const { return Floats(3); }
  // [queries][kKeyWarps]; between chunks: keep and add of Folds
  CHOIR_DEVICE float* maxima() const { return Floats(4); }
  // [2][queries]: top and sum of the chunks before
  CHOIR_DEVICE float* earlier() const { return Floats(8); }
  CHOIR_DEVICE int32_t* position() const {  // -1: no query
    return reinterpret_cast<int32_t*>(Floats(10));
  }
  CHOIR_DEVICE int32_t* row() const { return reinterpret_cast<int32_t*>(Floats(11)); }

  CHOIR_DEVICE bf16* Halves() const { return reinterpret_cast<bf16*>(Floats(kFloatsOfQuery)); }
  // exp(score - top)
  CHOIR_DEVICE Lines p() const { return {Halves(), kTileKeys}; }
  CHOIR_DEVICE Lines q() const { return {Halves() + kQueries * kTileKeys, k_pitch}; }
  // Keys, then values, of each stage.
  CHOIR_DEVICE bf16* stages() const { return Halves() + kQueries * (kTileKeys + k_pitch); }
};

}  // namespace choir::cuda
