// Arithmetic of the simple kernels. Every operation is one that IEEE 754 rounds, in an order that
// is written down, and neither compiler may fuse others (-fmad=false, -ffp-contract=off): so the
// GPU, the emulation on a CPU and every architecture give the same bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/tensor/dtype.h"
#include "common/tensor/small_floats.h"
#include "kernels/cuda/arch.cuh"

namespace choir::cuda {

CHOIR_DEVICE float Fma(float a, float b, float c) { return fmaf(a, b, c); }
CHOIR_DEVICE float Max(float a, float b) { return a > b ? a : b; }

// Of what is left, as much as a tile takes.
CHOIR_DEVICE int Least(int64_t left, int most) {
  return static_cast<int>(left < most ? left : most);
}

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// exp(x) = 2^n · exp(r), |r| <= ln 2 / 2, ln 2 in two parts; the polynomial is the Taylor series to
// r^7, which leaves 5e-9 of the result. Gives exp(r).
CHOIR_DEVICE float ExpOfRest(float x, float* n_of) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;  // its product with any n is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  const float n = rintf(x * kLog2E);
  *n_of = n;
  float r = Fma(-n, kLn2High, x);
  r = Fma(-n, kLn2Low, r);
  float p = 1.0f / 5040.0f;
  p = Fma(p, r, 1.0f / 720.0f);
  p = Fma(p, r, 1.0f / 120.0f);
  p = Fma(p, r, 1.0f / 24.0f);
  p = Fma(p, r, 1.0f / 6.0f);
  p = Fma(p, r, 0.5f);
  p = Fma(p, r, 1.0f);
  return Fma(p, r, 1.0f);
}

inline constexpr float kExpLeast = -87.3f;  // below: 0

// Within 2 units in the last place; NaN stays.
CHOIR_DEVICE float Exp(float x) {
  if (x < kExpLeast) return 0.0f;
  if (x > 88.72f) return kInfinity;
  float n;
  const float p = ExpOfRest(x, &n);
  if (n != n) return n;
  const int half = static_cast<int>(n) / 2;  // in two factors: 2^128 has none of its own
  const int rest = static_cast<int>(n) - half;
  const float a = std::bit_cast<float>(static_cast<uint32_t>(half + 127) << 23);
  const float b = std::bit_cast<float>(static_cast<uint32_t>(rest + 127) << 23);
  return p * a * b;
}

// The same bits without a branch. REQUIRES: x is not positive, or NaN.
CHOIR_DEVICE float ExpNotPositive(float x) {
  float n;
  const float p = ExpOfRest(x, &n);
  const int exponent = static_cast<int>(n > -126.0f ? n : -126.0f) + 127;
  const float value = p * std::bit_cast<float>(static_cast<uint32_t>(exponent) << 23);
  return x < kExpLeast ? 0.0f : value;
}

CHOIR_DEVICE float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }
CHOIR_DEVICE float Silu(float x) { return x / (1.0f + Exp(-x)); }

// A tensor of f32, bf16 or f16 as a kernel reads it.
struct Elements {
  const void* data = nullptr;
  DType dtype = DType::kF32;
};

CHOIR_DEVICE float At(const Elements& e, int64_t i) {
  if (e.dtype == DType::kBF16) return ToF32(static_cast<const bf16*>(e.data)[i]);
  if (e.dtype == DType::kF16) return F16ToF32(static_cast<const uint16_t*>(e.data)[i]);
  return static_cast<const float*>(e.data)[i];
}

CHOIR_DEVICE void Put(void* data, DType dtype, int64_t i, float value) {
  if (dtype == DType::kBF16) {
    static_cast<bf16*>(data)[i] = ToBF16(value);
  } else {
    static_cast<float*>(data)[i] = value;
  }
}

// A weight matrix [rows, width] in any format, with its scales (kernels/ops/linear.h).
struct Matrix {
  const void* data = nullptr;
  const void* scale = nullptr;
  DType dtype = DType::kF32;
  int64_t width = 0;
  int64_t scale_width = 0;
};

inline constexpr int64_t kF8Side = 128;
inline constexpr int64_t kF4Run = 32;

CHOIR_DEVICE float At(const Matrix& m, int64_t row, int64_t column) {
  const int64_t i = row * m.width + column;
  const auto* bytes = static_cast<const uint8_t*>(m.data);
  if (m.dtype == DType::kF8E4M3) {
    const int64_t block = row / kF8Side * m.scale_width + column / kF8Side;
    return F8ToF32(bytes[i]) * static_cast<const float*>(m.scale)[block];
  }
  if (m.dtype == DType::kF4E2M1) {
    const int nibble = (bytes[i / 2] >> (i % 2 * 4)) & 15;
    const int64_t block = row * m.scale_width + column / kF4Run;
    const uint8_t scale = static_cast<const uint8_t*>(m.scale)[block];
    return F4ToF32(static_cast<uint8_t>(nibble)) * ExponentToF32(scale);
  }
  return At(Elements{m.data, m.dtype}, i);
}

}  // namespace choir::cuda
