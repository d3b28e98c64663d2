// AVX-512 with BF16 dot products: bf16 x bf16 takes pairs of k in one instruction (32 a step).
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/micro.h"

namespace choir::cpu {
namespace {

#include "kernels/cpu/avx512_vector.inl"
#include "kernels/cpu/micro_loops.inl"

template <class Weights>
struct Bf16DotBase {
  using XType = uint16_t;
  using Operand = __m512bh;
  using Row = typename Weights::Row;
  static constexpr int64_t kStep = 32;
  static constexpr int kBits = Weights::kBits;
  static constexpr bool kPacked = Weights::kPacked;
  static Row RowAt(const DotTile& t, int64_t output) { return Weights::At(t, output); }
  static Operand Load(const uint16_t* p) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
  }
  static __mmask32 Mask32(int64_t n) { return static_cast<__mmask32>((uint64_t{1} << n) - 1u); }
  static Operand LoadTail(const uint16_t* p, int64_t n) {
    return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(Mask32(n), p));
  }
  static __m512 MulAdd(Operand x, Operand w, __m512 sum) { return _mm512_dpbf16_ps(sum, x, w); }
};

struct Bf16Dot : Bf16DotBase<PlainWeights<uint16_t>> {
  static Operand LoadW(Row row, int64_t k) { return Load(row + k); }
  static Operand LoadWTail(Row row, int64_t k, int64_t n) { return LoadTail(row + k, n); }
};

// Weights with scales, widened, scaled and rounded to bf16.
template <class Weights>
struct RoundedDot : Bf16DotBase<Weights> {
  using UnpackedType = uint16_t;
  using Unpacked = Bf16Dot;
  static void Unpack(uint16_t* to, __m512bh w, int64_t n) {
    _mm512_mask_storeu_epi16(to, Bf16DotBase<Weights>::Mask32(n), reinterpret_cast<__m512i>(w));
  }
};

struct F8Dot : RoundedDot<F8Weights> {
  static Operand Rounded(__m256i bytes, float scale) {
    const __m512i half = V::F8ToF16(bytes);
    const __m512 scales = V::Set1(256.0f * scale);
    return _mm512_cvtne2ps_pbh(
        _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)), scales),
        _mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(half)), scales));
  }
  static Operand LoadW(Row row, int64_t k) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.w + k));
    return Rounded(bytes, row.scale[k >> 7]);
  }
  static Operand LoadWTail(Row row, int64_t k, int64_t n) {
    return Rounded(_mm256_maskz_loadu_epi8(Mask32(n), row.w + k), row.scale[k >> 7]);
  }
};

// 2^(s - 127) as what is taken from F4Dot's magnitudes.
struct F4ShiftTable {
  constexpr F4ShiftTable() {
    for (int s = 0; s < 256; ++s) value[s] = static_cast<uint16_t>((255 - s) << 7);
  }
  uint16_t value[256] = {};
};
constexpr F4ShiftTable kF4Shifts;

// A step is one block of 32. Its values are bf16 numbers, made by their bits: magnitudes with
// exponents 128 too high, less (255 - s) in the place of the exponent; what is below 0 is 0.
struct F4Dot : RoundedDot<F4Weights> {
  static Operand LoadW(Row row, int64_t k) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row.w + (k >> 1)));
    const __m512i pairs = _mm512_cvtepu8_epi32(bytes);
    // Both codes of a byte in the low bits of their words; the fifth bit has no say.
    const __m512i codes = _mm512_or_si512(pairs, _mm512_slli_epi32(pairs, 12));
    const __m128i four = _mm_setr_epi16(0, 0x7f00, 0x7f80, 0x7fc0, static_cast<int16_t>(0x8000),
                                        static_cast<int16_t>(0x8040), static_cast<int16_t>(0x8080),
                                        static_cast<int16_t>(0x80c0));
    const __m512i high = _mm512_permutexvar_epi16(codes, _mm512_broadcast_i32x4(four));
    const auto shift = static_cast<int16_t>(kF4Shifts.value[row.scale[k >> 5]]);
    const __m512i size = _mm512_subs_epu16(high, _mm512_set1_epi16(shift));
    return reinterpret_cast<__m512bh>(
        _mm512_ternarylogic_epi64(size, _mm512_slli_epi16(codes, 12),
                                  _mm512_set1_epi16(static_cast<int16_t>(0x8000)), V::kOrAnd));
  }
  static Operand LoadWTail(Row row, int64_t k, int64_t) { return LoadW(row, k); }
};

constexpr Micro MakeMicro() {
  Micro micro = MicroOf("avx512bf16");
  micro.dot[1][kFormatBF16] = Dot<Bf16Dot>;
  micro.dot[1][kFormatF8] = Dot<F8Dot>;
  micro.dot[1][kFormatF4] = Dot<F4Dot>;
  return micro;
}

constexpr Micro kMicro = MakeMicro();

}  // namespace

const Micro& Avx512Bf16Micro() { return kMicro; }

}  // namespace choir::cpu
