// The loops of exact_math, included by each file that compiles them for one vector width. Only the
// width differs: no file may have FMA, so all give the same bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>

#include "worker/engine/exact_math.h"

#define CHOIR_INLINE [[gnu::always_inline]] inline

namespace choir {
namespace {

constexpr double kLn2High = 0x1.62e42fee00000p-1;  // its product with any exponent is exact
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kLog2E = 0x1.71547652b82fep+0;
constexpr size_t kLanes = 8;  // of ExactExpSum

// exp(x) = 2^n · exp(r), |r| <= ln 2 / 2; the Taylor series to r^12 leaves 2e-16. Branch-free, so
// that the loops below are vectorized: the rounding constant leaves n in the low bits of the sum.
CHOIR_INLINE double Exp(double x) {
  constexpr double kRound = 0x1.8p52;
  const double shifted = x * kLog2E + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double p = 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const uint64_t scale = (std::bit_cast<uint64_t>(shifted) + 1023) << 52;
  const double y = p * std::bit_cast<double>(scale);
  return x >= -700.0 ? y : 0.0;
}

CHOIR_INLINE uint64_t Weight(double x) {
  return std::bit_cast<uint64_t>(Exp(x) * kWeightOne + 0x1p52) & 0x000fffffffffffffu;
}

CHOIR_INLINE void Weights(const float* values, size_t n, double max, double scale, uint64_t* out) {
  for (size_t i = 0; i < n; ++i) out[i] = Weight((static_cast<double>(values[i]) - max) * scale);
}

CHOIR_INLINE double ExpSum(const float* values, size_t n, double max) {
  double lanes[kLanes] = {};
  double chunk[256];
  for (size_t begin = 0; begin < n; begin += std::size(chunk)) {
    const size_t count = std::min(n - begin, std::size(chunk));
    for (size_t i = 0; i < count; ++i) chunk[i] = Exp(static_cast<double>(values[begin + i]) - max);
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
