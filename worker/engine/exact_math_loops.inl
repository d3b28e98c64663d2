// The loops of exact_math, included by each file that compiles them for one vector width. Only the
// width differs: no file may have FMA, so all give the same bits.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>

#include "common/base/exact_exp.h"
#include "worker/engine/exact_math.h"

#define CHOIR_INLINE [[gnu::always_inline]] inline

namespace choir {
namespace {

constexpr size_t kLanes = 8;  // of ExactExpSum

CHOIR_INLINE void Weights(const float* values, size_t n, double max, double scale, uint64_t* out) {
  for (size_t i = 0; i < n; ++i)
    out[i] = ExactWeightOf((static_cast<double>(values[i]) - max) * scale);
}

CHOIR_INLINE double ExpSum(const float* values, size_t n, double max) {
  double lanes[kLanes] = {};
  double chunk[256];
  for (size_t begin = 0; begin < n; begin += std::size(chunk)) {
    const size_t count = std::min(n - begin, std::size(chunk));
    for (size_t i = 0; i < count; ++i)
      chunk[i] = ExactExpOf(static_cast<double>(values[begin + i]) - max);
    for (size_t i = count; i < std::size(chunk); ++i) chunk[i] = 0.0;
    for (size_t i = 0; i < std::size(chunk); i += kLanes) {
      for (size_t j = 0; j < kLanes; ++j) lanes[j] += chunk[i + j];
    }
  }
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// The first index of the greatest value; NaN is never it. In blocks, so that the compare is
// vectorized and only one block has to be searched.
CHOIR_INLINE size_t Best(const float* values, size_t n) {
  constexpr size_t kBlock = 256, kWide = 16;
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  size_t best_block = 0;
  float best = kLeast;
  for (size_t begin = 0; begin < n; begin += kBlock) {
    float lanes[kWide];
    for (float& lane : lanes) lane = kLeast;
    const size_t end = std::min(n, begin + kBlock);
    size_t i = begin;
    for (; i + kWide <= end; i += kWide) {
      for (size_t j = 0; j < kWide; ++j) {
        lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
      }
    }
    for (; i < end; ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
    float block_best = kLeast;
    for (const float lane : lanes) block_best = lane > block_best ? lane : block_best;
    if (block_best > best) {
      best = block_best;
      best_block = begin;
    }
  }
  if (best == kLeast) return 0;
  size_t index = best_block;
  while (values[index] != best) ++index;
  return index;
}

}  // namespace
}  // namespace choir
