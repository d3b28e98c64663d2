// AVX-512 with BF16 dot products: bf16 x bf16 takes pairs of k in one instruction (32 a step).
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/micro.h"

namespace choir::cpu {
namespace {

#include "kernels/cpu/avx512_vector.inl"
#include "kernels/cpu/micro_loops.inl"

struct Bf16Dot {
  using XType = uint16_t;
  using WType = uint16_t;
  using Operand = __m512bh;
  static constexpr int64_t kStep = 32;
  static Operand Load(const uint16_t* p) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
  }
  static Operand LoadTail(const uint16_t* p, int64_t n) {
    const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << n) - 1u);
    return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, p));
  }
  static Operand LoadW(const uint16_t* p) { return Load(p); }
  static Operand LoadWTail(const uint16_t* p, int64_t n) { return LoadTail(p, n); }
  static __m512 MulAdd(Operand x, Operand w, __m512 sum) { return _mm512_dpbf16_ps(sum, x, w); }
};

constexpr Micro MakeMicro() {
  Micro micro = MicroOf("avx512bf16");
  micro.dot[1][1] = Dot<Bf16Dot>;
  return micro;
}

constexpr Micro kMicro = MakeMicro();

}  // namespace

const Micro& Avx512Bf16Micro() { return kMicro; }

}  // namespace choir::cpu
