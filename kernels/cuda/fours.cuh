// Four neighbouring elements of a row at a time.
#pragma once

#include "kernels/cuda/math.cuh"

namespace choir::cuda {

struct alignas(8) FloatPair {
  float at[2];
};
struct alignas(8) Halves4 {
  bf16 at[4];
};
struct alignas(16) Floats4 {
  float at[4];
};

// Rows that can be read and written so: the first at a multiple of four elements, `stride` elements
// apart.
inline bool InFours(const void* data, DType dtype, int64_t stride) {
  const auto unit = static_cast<uintptr_t>(BytesOf(dtype, 4));
  return reinterpret_cast<uintptr_t>(data) % unit == 0 && stride % 4 == 0;
}

// REQUIRES: i is a multiple of four, as is the place of e's first element.
CHOIR_DEVICE Floats4 FourAt(const Elements& e, int64_t i) {
  if (e.dtype == DType::kF32) {
    return *reinterpret_cast<const Floats4*>(static_cast<const float*>(e.data) + i);
  }
  const auto four = *reinterpret_cast<const Halves4*>(static_cast<const uint16_t*>(e.data) + i);
  if (e.dtype == DType::kF16) {
    return {
        {F16ToF32(four.at[0]), F16ToF32(four.at[1]), F16ToF32(four.at[2]), F16ToF32(four.at[3])}};
  }
  return {{ToF32(four.at[0]), ToF32(four.at[1]), ToF32(four.at[2]), ToF32(four.at[3])}};
}

// To f32 or bf16.
CHOIR_DEVICE void PutFour(void* to, DType dtype, int64_t i, const Floats4& four) {
  if (dtype == DType::kF32) {
    *reinterpret_cast<Floats4*>(static_cast<float*>(to) + i) = four;
    return;
  }
  *reinterpret_cast<Halves4*>(static_cast<bf16*>(to) + i) = {
      {ToBF16(four.at[0]), ToBF16(four.at[1]), ToBF16(four.at[2]), ToBF16(four.at[3])}};
}

}  // namespace choir::cuda
