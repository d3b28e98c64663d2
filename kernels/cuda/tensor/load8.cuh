// Eight neighbouring elements of a row as bf16, from any format that is exact in bf16 (or is
// rounded to it by Compute::kBF16): one wide load where the row allows it.
#pragma once

#include "kernels/cuda/math.cuh"

namespace choir::cuda {

struct alignas(16) Wide16 {
  uint32_t words[4];
};
struct alignas(8) Wide8 {
  uint32_t words[2];
};

// [rows, width] of f32, bf16, f8 (without its scales) or f4 (with them).
struct Rows8 {
  Matrix m;
  bool aligned;  // every row begins at a multiple of 16 bytes (f8: of 8)

  CHOIR_DEVICE void Get(int64_t row, int64_t k, bf16 (&out)[8]) const {
    if (aligned && k + 8 <= m.width) return GetWide(row * m.width + k, row, k, out);
    CHOIR_UNROLL
    for (int i = 0; i < 8; ++i) out[i] = k + i < m.width ? One(row, k + i) : bf16{0};
  }

 private:
  CHOIR_DEVICE bf16 One(int64_t row, int64_t k) const {
    if (m.dtype == DType::kBF16) return static_cast<const bf16*>(m.data)[row * m.width + k];
    if (m.dtype != DType::kF8E4M3) return ToBF16(At(m, row, k));
    return ToBF16(F8ToF32(static_cast<const uint8_t*>(m.data)[row * m.width + k]));
  }

  CHOIR_DEVICE void GetWide(int64_t at, int64_t row, int64_t k, bf16 (&out)[8]) const {
    if (m.dtype == DType::kBF16) {
      const auto wide = *reinterpret_cast<const Wide16*>(static_cast<const bf16*>(m.data) + at);
      CHOIR_UNROLL
      for (int i = 0; i < 8; ++i) out[i] = static_cast<bf16>(wide.words[i / 2] >> (i % 2 * 16));
    } else if (m.dtype == DType::kF8E4M3) {
      const auto wide = *reinterpret_cast<const Wide8*>(static_cast<const uint8_t*>(m.data) + at);
      CHOIR_UNROLL
      for (int i = 0; i < 8; ++i) {
        out[i] = ToBF16(F8ToF32(static_cast<uint8_t>(wide.words[i / 4] >> (i % 4 * 8))));
      }
    } else if (m.dtype == DType::kF32) {
      const auto* wide = reinterpret_cast<const Wide16*>(static_cast<const float*>(m.data) + at);
      const Wide16 halves[2] = {wide[0], wide[1]};
      CHOIR_UNROLL
      for (int i = 0; i < 8; ++i) {
        out[i] = ToBF16(std::bit_cast<float>(halves[i / 4].words[i % 4]));
      }
    } else if (m.dtype == DType::kF4E2M1) {
      const auto codes =
          *reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(m.data) + at / 2);
      const auto* scales = static_cast<const uint8_t*>(m.scale) + row * m.scale_width;
      const float scale = ExponentToF32(scales[k / kF4Run]);  // eight columns lie in one run
      CHOIR_UNROLL
      for (int i = 0; i < 8; ++i) {
        out[i] = ToBF16(F4ToF32(static_cast<uint8_t>(codes >> 4 * i & 15)) * scale);
      }
    } else {
      CHOIR_UNROLL
      for (int i = 0; i < 8; ++i) out[i] = One(row, k + i);
    }
  }
};

inline Rows8 Rows8Of(const Matrix& m) {
  const auto address = reinterpret_cast<uintptr_t>(m.data);
  const int64_t row_bytes = BytesOf(m.dtype, m.width);
  const int64_t unit = m.dtype == DType::kF8E4M3 ? 8 : 16;
  return {m, address % static_cast<uintptr_t>(unit) == 0 && row_bytes % unit == 0};
}

}  // namespace choir::cuda
