// Conversions of f16 (IEEE 754 binary16), f8 (E4M3 as in OCP 8-bit FP: no infinity, one NaN) and f4
// (E2M1 of OCP MX) by their bits. Widening is exact; narrowing rounds to nearest even. Header-only.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace choir {

constexpr float F16ToF32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fffu) << 13;
  if ((h & 0x7c00u) == 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | magnitude);
  const float value = std::bit_cast<float>(magnitude) * 0x1p112f;  // also right below 2^-14
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

constexpr float F8ToF32(uint8_t b) {
  const uint32_t sign = static_cast<uint32_t>(b & 0x80u) << 24;
  if ((b & 0x7fu) == 0x7fu) return std::numeric_limits<float>::quiet_NaN();
  const float value = std::bit_cast<float>(static_cast<uint32_t>(b & 0x7fu) << 20) * 0x1p120f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

constexpr float F4ToF32(uint8_t nibble) {
  const uint32_t halves = 0xc8643210u >> (nibble & 7) * 4 & 15;  // 0, 1, 2, 3, 4, 6, 8, 12
  const float value = static_cast<float>(halves) * 0.5f;
  return (nibble & 8) != 0 ? -value : value;
}

// The scale of a block of 32 f4 values: 2^(s - 127); 255 means NaN.
constexpr float ExponentToF32(uint8_t s) {
  if (s == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(s == 0 ? uint32_t{1} << 22 : static_cast<uint32_t>(s) << 23);
}

// Beyond 65504: infinity. NaN stays NaN.
constexpr uint16_t ToF16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
  if (magnitude < 0x38800000u) {  // below 2^-14: multiples of 2^-24, by adding 2^-1 = 2^23 of them
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3f000000u);
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

// Beyond 448: 448, as quantizers clamp. NaN stays NaN.
constexpr uint8_t ToF8(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint8_t>((u >> 24) & 0x80u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7fu;
  if (magnitude >= 0x43e00000u) return sign | 0x7eu;
  if (magnitude < 0x3c800000u) {  // below 2^-6: multiples of 2^-9, by adding 2^14 = 2^23 of them
    const float shifted = std::bit_cast<float>(magnitude) + 16384.0f;
    return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(shifted) - 0x46800000u);
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return sign | static_cast<uint8_t>((rounded >> 20) - (120u << 3));
}

// The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6, ties to the even code; beyond 6: 6.
constexpr uint8_t ToF4(float f) {
  constexpr float kBorders[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float size = f < 0 ? -f : f;
  uint8_t code = 0;
  while (code < 7 && (size > kBorders[code] || (size == kBorders[code] && code % 2 == 1))) ++code;
  return f < 0 ? static_cast<uint8_t>(code | 8) : code;
}

}  // namespace choir
