// AVX2 with FMA and F16C: 16 registers of eight floats. Compiled with those flags; see micro.h for
// the rules.
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/micro.h"

namespace choir::cpu {
namespace {

struct V {
  using F = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kDotRows = 2;
  static constexpr int kWeightedRows = 2;

  static F Zero() { return _mm256_setzero_ps(); }
  static F Set1(float x) { return _mm256_set1_ps(x); }
  static F Load(const float* p) { return _mm256_loadu_ps(p); }
  static F Load(const uint16_t* p) {
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
  }
  static F Load(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // As f16 over 2^8: the sign stays on top, exponent and mantissa move to theirs. All their bits
  // set mean NaN: a carry into the exponent's top bit finds it, and that bit makes it f16's.
  static F LoadF8(const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i wide = _mm_slli_epi16(_mm_cvtepi8_epi16(bytes), 7);
    const __m128i half = _mm_and_si128(wide, _mm_set1_epi16(static_cast<int16_t>(0xbfff)));
    const __m128i carry = _mm_add_epi16(half, _mm_set1_epi16(0x80));
    const __m128i value = _mm_or_si128(half, _mm_and_si128(carry, _mm_set1_epi16(0x4000)));
    return _mm256_mul_ps(_mm256_cvtph_ps(value), Set1(256.0f));
  }
  static F LoadF8Tail(const uint8_t* p, int64_t n) {
    uint8_t padded[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
    return LoadF8(padded);
  }
  static F LoadF4(const uint8_t* p) {
    int32_t bytes = 0;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    const __m256i pairs = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
    const __m256i codes = _mm256_or_si256(pairs, _mm256_slli_epi64(pairs, 28));  // in bits 0..3
    const F sizes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    const F sign = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));
    return _mm256_or_ps(_mm256_permutevar8x32_ps(sizes, codes), _mm256_and_ps(sign, Set1(-0.0f)));
  }
  template <class T>
  static F LoadTail(const T* p, int64_t n) {
    if (n == kLanes) return Load(p);
    T padded[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
    return Load(padded);
  }
  static void Store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static void Store(uint16_t* p, F v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i high = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i even = _mm256_srli_epi32(_mm256_add_epi32(u, bias), 16);
    const __m256i nan = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i h = _mm256_blendv_epi8(even, nan, is_nan);
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
  }
  template <class T>
  static void StoreTail(T* p, F v, int64_t n) {
    if (n == kLanes) return Store(p, v);
    T padded[kLanes];
    Store(padded, v);
    for (int64_t i = 0; i < n; ++i) p[i] = padded[i];
  }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm256_div_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  static F Min(F a, F b) { return _mm256_min_ps(a, b); }
  static F Round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F Exp2(F n) {
    const __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(whole, 23));
  }
  // Folds halves, quarters, then neighbours: ((0+4)+(2+6)) + ((1+5)+(3+7)), four sums at once.
  static void Reduce4(const F (&v)[4], float (&out)[4]) {
    const F ab = _mm256_add_ps(_mm256_permute2f128_ps(v[0], v[1], 0x20),
                               _mm256_permute2f128_ps(v[0], v[1], 0x31));
    const F cd = _mm256_add_ps(_mm256_permute2f128_ps(v[2], v[3], 0x20),
                               _mm256_permute2f128_ps(v[2], v[3], 0x31));
    const F pairs = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    const F sums = _mm256_add_ps(pairs, _mm256_permute_ps(pairs, 0xb1));
    const __m128 ac = _mm256_castps256_ps128(sums);  // a a c c
    const __m128 bd = _mm256_extractf128_ps(sums, 1);
    _mm_storeu_ps(out, _mm_blend_ps(ac, bd, 0b1010));  // a b c d
  }
};

#include "kernels/cpu/micro_loops.inl"

constexpr Micro kMicro = MicroOf("avx2");

}  // namespace

const Micro& Avx2Micro() { return kMicro; }

}  // namespace choir::cpu
