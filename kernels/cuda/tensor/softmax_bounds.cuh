// What the fast sampler knows of weights without computing them: ExactWeightOf costs some 40
// operations in double, on a card with few units for them. Between values and weights there are
// bounds, and sums of weights are bounded by sums in f32.
//
// Rests on this alone: ExactWeightOf(x) lies within 1 % or 0.6 of exp(x) · 2^44, and QuickWeight
// within 2^-22 of itself; tests/contract/kernels/sample_test.cc holds them to it.
#pragma once

#include "common/base/exact_exp.h"
#include "kernels/cuda/math.cuh"

namespace choir::cuda {

// Weights of a row's values.
struct ExactSoftmax {
  double max, temperature;  // max is finite, temperature is positive
  double scale;

  CHOIR_DEVICE uint64_t WeightOf(float value) const {
    return ExactWeightOf((static_cast<double>(value) - max) * scale);
  }

  // Every value that weighs as much is at least this. REQUIRES: 1 <= weight <= 2^44.
  CHOIR_DEVICE float LeastValueOf(uint64_t weight) const {
    const double x = logf(static_cast<float>(weight) - 0.6f) - (kLogOfOne + 0.02f);
    const double value = max + x * temperature;
    const double least = value - Slack(value);
    return least < -3e38 ? -kInfinity : static_cast<float>(least);
  }
  // Every value that weighs no more is at most this.
  CHOIR_DEVICE float MostValueOf(uint64_t weight) const {
    const double x = logf(static_cast<float>(weight) + 0.6f) - (kLogOfOne - 0.02f);
    const double value = max + x * temperature;
    const double most = value + Slack(value);
    return most > 3e38 ? kInfinity : static_cast<float>(most);
  }
  // No value below this one weighs more.
  CHOIR_DEVICE uint64_t MostWeightBelow(float value) const {
    return static_cast<uint64_t>(static_cast<double>(WeightOf(value)) * 1.03) + 2;
  }

 private:
  static constexpr float kLogOfOne = 30.4985f;  // ln 2^44

  // What rounding to f32 may move.
  CHOIR_DEVICE double Slack(double value) const {
    return (fabs(max) + fabs(value)) * 0x1p-22 + 1e-40;
  }
};

// exp((v - max) · scale) in f32, but for one factor of the row: v · scale · log2 e in two parts, of
// which the whole number goes to the exponent, and the Taylor series of 2^f to f^7, which leaves
// 4e-8 for |f| < 0.63.
struct QuickWeight {
  bool usable = false;
  float high = 0.0f, low = 0.0f;  // scale · log2 e
  int32_t top = 0;
  double factor = 0.0;  // 2^44 · exp((v - max) · scale) = factor · Of(v)

  // REQUIRES: usable; v <= max weighs something.
  CHOIR_DEVICE float Of(float v) const {
    constexpr float kRound = 0x1.8p23f;
    const float t = v * high;
    const float rest = Fma(v, low, Fma(v, high, -t));
    const float shifted = t + kRound;
    const float f = (t - (shifted - kRound)) + rest;
    float p = 1.525273380e-5f;  // ln(2)^7 / 7!, and so on
    p = Fma(p, f, 1.540353039e-4f);
    p = Fma(p, f, 1.333355815e-3f);
    p = Fma(p, f, 9.618129108e-3f);
    p = Fma(p, f, 5.550410866e-2f);
    p = Fma(p, f, 2.402265070e-1f);
    p = Fma(p, f, 6.931471806e-1f);
    p = Fma(p, f, 1.0f);
    const auto n =
        static_cast<int32_t>(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound));
    return std::bit_cast<float>(std::bit_cast<uint32_t>(p) +
                                (static_cast<uint32_t>(n - top) << 23));
  }
};

CHOIR_DEVICE QuickWeight QuickWeightOf(const ExactSoftmax& s) {
  constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  QuickWeight quick;
  const double scale = s.scale * kLog2E;
  const double top = s.max * scale;
  quick.usable = scale > 0x1p-60 && scale < 0x1p60 && fabs(top) < 0x1p16;
  if (!quick.usable) return quick;
  quick.high = static_cast<float>(scale);
  quick.low = static_cast<float>(scale - static_cast<double>(quick.high));
  quick.top = static_cast<int32_t>(floor(top));
  quick.factor = ExactExpOf((static_cast<double>(quick.top) - top) * kLn2) * kWeightOne;
  return quick;
}

// Between which a sum of weights lies.
struct SumBounds {
  uint64_t least = 0, most = 0;
};

}  // namespace choir::cuda
