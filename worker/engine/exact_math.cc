#include "worker/engine/exact_math.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <iterator>

#include "common/base/check.h"

// One body, compiled once per vector width and chosen at run time. Only the width differs: none of
// the variants has FMA, so all give the same bits.
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

struct Variant {
  void (*weights)(const float*, size_t, double, double, uint64_t*);
  double (*exp_sum)(const float*, size_t, double);
};

void WeightsAny(const float* v, size_t n, double max, double scale, uint64_t* out) {
  Weights(v, n, max, scale, out);
}
double ExpSumAny(const float* v, size_t n, double max) { return ExpSum(v, n, max); }

#if defined(__x86_64__)
[[gnu::target("avx2")]] void WeightsAvx2(const float* v, size_t n, double max, double scale,
                                         uint64_t* out) {
  Weights(v, n, max, scale, out);
}
[[gnu::target("avx2")]] double ExpSumAvx2(const float* v, size_t n, double max) {
  return ExpSum(v, n, max);
}
Variant Choose() {
  if (__builtin_cpu_supports("avx2")) return {WeightsAvx2, ExpSumAvx2};
  return {WeightsAny, ExpSumAny};
}
#else
Variant Choose() { return {WeightsAny, ExpSumAny}; }
#endif

const Variant& Chosen() {
  static const Variant variant = Choose();
  return variant;
}

}  // namespace

double ExactExp(double x) { return Exp(x); }

uint64_t ExactWeight(double x) { return Weight(x); }

double ExactLog(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  if (m > 0x1.6a09e667f3bcdp+0) {  // sqrt(2): keeps |s| <= 0.172
    m *= 0.5;
    ++exponent;
  }
  // log m = 2 · atanh(s), s = (m - 1) / (m + 1)
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;
  double p = 0.0;
  for (int k = 21; k >= 1; k -= 2) p = p * s2 + 1.0 / k;
  const double e = static_cast<double>(exponent);
  return (2.0 * s * p + e * kLn2Low) + e * kLn2High;
}

void ExactWeights(std::span<const float> values, double max, double scale,
                  std::span<uint64_t> weights) {
  CHOIR_CHECK(weights.size() == values.size());
  Chosen().weights(values.data(), values.size(), max, scale, weights.data());
}

double ExactExpSum(std::span<const float> values, double max) {
  return Chosen().exp_sum(values.data(), values.size(), max);
}

}  // namespace choir
