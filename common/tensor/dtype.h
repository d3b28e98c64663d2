// Element types and bf16 conversion (smaller floats: small_floats.h). Header-only and free of
// abseil: kernels include it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace choir {

// kF4E2M1: two elements in a byte, the first in the low nibble.
enum class DType : uint8_t { kF32, kBF16, kF16, kI32, kI64, kU8, kF8E4M3, kF4E2M1 };

// Bytes of one element; 0 for kF4E2M1, of which only BytesOf knows.
constexpr size_t SizeOf(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kI64:
      return 8;
    case DType::kU8:
    case DType::kF8E4M3:
      return 1;
    case DType::kF4E2M1:
      return 0;
  }
  return 0;
}

// Bytes of `count` elements; an even count of kF4E2M1.
constexpr int64_t BytesOf(DType t, int64_t count) {
  return t == DType::kF4E2M1 ? count / 2 : count * static_cast<int64_t>(SizeOf(t));
}

constexpr const char* NameOf(DType t) {
  switch (t) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
    case DType::kF8E4M3:
      return "f8_e4m3";
    case DType::kF4E2M1:
      return "f4_e2m1";
  }
  return "?";
}

using bf16 = uint16_t;  // bits of a bfloat16

constexpr float ToF32(bf16 h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

// Round to nearest even; NaN stays NaN.
constexpr bf16 ToBF16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16>((u >> 16) | 0x40u);
  return static_cast<bf16>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

}  // namespace choir
