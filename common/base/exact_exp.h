// exp in double that gives the same bits on every machine, GPUs too: libm's differ. Error below
// 1e-14 relative. No contraction is allowed where this is compiled (-ffp-contract=off,
// -fmad=false). Branch-free, so that loops of it are vectorized. Free of the standard library's
// run-time parts: kernels include it.
#pragma once

#include <bit>
#include <cstdint>

namespace choir {

inline constexpr double kLn2High = 0x1.62e42fee00000p-1;  // its product with any exponent is exact
inline constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
inline constexpr double kLog2E = 0x1.71547652b82fep+0;
inline constexpr double kWeightOne = 0x1p44;

// x <= 0; 0 below -700 and for NaN. exp(x) = 2^n · exp(r), |r| <= ln 2 / 2; the Taylor series to
// r^12 leaves 2e-16. The rounding constant leaves n in the low bits of the sum.
[[gnu::always_inline]] constexpr double ExactExpOf(double x) {
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

// round(exp(x) · 2^44): weights are integers, so that their sums are exact in any order. 2^44
// stands for the best token's, tokens below 2^-45 of it weigh nothing, and 2^19 of them cannot
// overflow.
[[gnu::always_inline]] constexpr uint64_t ExactWeightOf(double x) {
  return std::bit_cast<uint64_t>(ExactExpOf(x) * kWeightOne + 0x1p52) & 0x000fffffffffffffu;
}

}  // namespace choir
