// The vector of both AVX-512 paths (F, BW, DQ, VL): 32 registers of sixteen floats, masked tails.
struct V {
  using F = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kDotRows = 6;
  static constexpr int kWeightedRows = 4;

  static __mmask16 Mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

  static F Zero() { return _mm512_setzero_ps(); }
  static F Set1(float x) { return _mm512_set1_ps(x); }
  static F Widen(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static F Load(const uint16_t* p) {
    return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F LoadTail(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(Mask(n), p); }
  static F LoadTail(const uint16_t* p, int64_t n) {
    return Widen(_mm256_maskz_loadu_epi16(Mask(n), p));
  }
  static F Load(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F LoadTail(const Half* p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(Mask(n), p));
  }
  // As f16 over 2^8: the sign stays on top, exponent and mantissa move to theirs. All their bits
  // set mean NaN: a carry into the exponent's top bit finds it, and that bit makes it f16's.
  static constexpr int kOrAnd = 0xf8;  // a | (b & c)
  static __m512i F8ToF16(__m256i bytes) {
    const __m512i wide = _mm512_slli_epi16(_mm512_cvtepi8_epi16(bytes), 7);
    const __m512i half = _mm512_and_si512(wide, _mm512_set1_epi16(static_cast<int16_t>(0xbfff)));
    const __m512i carry = _mm512_add_epi16(half, _mm512_set1_epi16(0x80));
    return _mm512_ternarylogic_epi64(half, carry, _mm512_set1_epi16(0x4000), kOrAnd);
  }
  static F WidenF8(__m128i bytes) {
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
    const __m256i half = _mm256_and_si256(wide, _mm256_set1_epi16(static_cast<int16_t>(0xbfff)));
    const __m256i carry = _mm256_add_epi16(half, _mm256_set1_epi16(0x80));
    const __m256i value = _mm256_ternarylogic_epi64(half, carry, _mm256_set1_epi16(0x4000), kOrAnd);
    return _mm512_mul_ps(_mm512_cvtph_ps(value), Set1(256.0f));
  }
  static F LoadF8(const uint8_t* p) {
    return WidenF8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F LoadF8Tail(const uint8_t* p, int64_t n) {
    return WidenF8(_mm_maskz_loadu_epi8(Mask(n), p));
  }
  static F LoadF4(const uint8_t* p) {
    const __m512i pairs =
        _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    // Both codes of a byte in the low bits of their lanes; the permutation looks at four bits only.
    const __m512i codes = _mm512_or_si512(pairs, _mm512_slli_epi64(pairs, 28));
    const F values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f,
                                    -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
    return _mm512_permutexvar_ps(codes, values);
  }
  static __m256i Narrow(F v) {
    const __m512i u = _mm512_castps_si512(v);
    const __m512i high = _mm512_srli_epi32(u, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i even = _mm512_srli_epi32(_mm512_add_epi32(u, bias), 16);
    const __m512i nan = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(even, is_nan, nan));
  }
  static void Store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void StoreTail(float* p, F v, int64_t n) { _mm512_mask_storeu_ps(p, Mask(n), v); }
  static void StoreTail(uint16_t* p, F v, int64_t n) {
    _mm256_mask_storeu_epi16(p, Mask(n), Narrow(v));
  }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Round(F x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static F Exp2(F n) { return _mm512_scalef_ps(Set1(1.0f), n); }
  // Folds halves, quarters, eighths, then neighbours of four vectors at once.
  static void Reduce4(const F (&v)[4], float (&out)[4]) {
    const F ab = _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x44),
                               _mm512_shuffle_f32x4(v[0], v[1], 0xee));
    const F cd = _mm512_add_ps(_mm512_shuffle_f32x4(v[2], v[3], 0x44),
                               _mm512_shuffle_f32x4(v[2], v[3], 0xee));
    F abcd = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    abcd = _mm512_add_ps(abcd, _mm512_permute_ps(abcd, 0x4e));
    abcd = _mm512_add_ps(abcd, _mm512_permute_ps(abcd, 0xb1));
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, abcd)));
  }
};
