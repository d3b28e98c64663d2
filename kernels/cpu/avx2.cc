// AVX2 with FMA: 16 registers of eight floats. Compiled with -mavx2 -mfma; see micro.h for the
// rules.
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
