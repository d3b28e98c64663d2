#include "worker/engine/exact_math.h"

#include <bit>

#include "common/base/check.h"
#include "worker/engine/exact_math_loops.inl"
#include "worker/engine/exact_math_variant.h"

namespace choir {
namespace {

void WeightsPortable(const float* values, size_t n, double max, double scale, uint64_t* out) {
  Weights(values, n, max, scale, out);
}

double ExpSumPortable(const float* values, size_t n, double max) { return ExpSum(values, n, max); }

size_t BestPortable(const float* values, size_t n) { return Best(values, n); }

const ExactLoops& Chosen() {
  static const ExactLoops loops = ChooseExactLoops();
  return loops;
}

}  // namespace

ExactLoops PortableExactLoops() { return {WeightsPortable, ExpSumPortable, BestPortable}; }

double ExactExp(double x) { return ExactExpOf(x); }

uint64_t ExactWeight(double x) { return ExactWeightOf(x); }

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

size_t BestIndex(std::span<const float> values) {
  return Chosen().best(values.data(), values.size());
}

}  // namespace choir
