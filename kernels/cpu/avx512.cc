// AVX-512 F, BW, DQ and VL. Compiled with those flags; see micro.h for the rules.
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/micro.h"

namespace choir::cpu {
namespace {

#include "kernels/cpu/avx512_vector.inl"
#include "kernels/cpu/micro_loops.inl"

constexpr Micro kMicro = MicroOf("avx512");

}  // namespace

const Micro& Avx512Micro() { return kMicro; }

}  // namespace choir::cpu
