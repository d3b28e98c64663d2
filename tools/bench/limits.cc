#include "tools/bench/limits.h"

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace choir::bench {
namespace {

double SecondsOf(ThreadTeam& team, const std::function<void(int)>& fn) {
  const double begin = Now(team);
  team.Run(fn);
  return Now(team) - begin;
}

// So that the compiler cannot drop a loop whose result nobody reads.
volatile float sink;

#if defined(__x86_64__)
constexpr int64_t kRounds = 2'000'000;
constexpr int kChains = 24;

__attribute__((target("avx512f"))) void Read512(const std::byte* p, size_t bytes) {
  __m512i a = _mm512_setzero_si512();
  __m512i b = a;
  for (size_t i = 0; i + 256 <= bytes; i += 256) {
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 4096), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 4160), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 4224), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 4288), _MM_HINT_T0);
    a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 64));
    a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i + 128));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 192));
  }
  sink = static_cast<float>(_mm512_reduce_add_epi32(_mm512_xor_si512(a, b)));
}

__attribute__((target("avx512f"))) void Fma512() {
  __m512 sums[kChains];
  for (__m512& s : sums) s = _mm512_set1_ps(0.5f);
  const __m512 x = _mm512_set1_ps(0.999f);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 24
    for (__m512& s : sums) s = _mm512_fmadd_ps(s, x, x);
  }
  for (const __m512& s : sums) sink = _mm512_reduce_add_ps(s);
}

__attribute__((target("avx512f,avx512bf16"))) void Dot512() {
  __m512 sums[kChains];
  for (__m512& s : sums) s = _mm512_setzero_ps();
  const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f00));
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 24
    for (__m512& s : sums) s = _mm512_dpbf16_ps(s, x, x);
  }
  for (const __m512& s : sums) sink = _mm512_reduce_add_ps(s);
}

__attribute__((target("avx2,fma"))) void Fma256() {
  constexpr int kFew = 12;
  __m256 sums[kFew];
  for (__m256& s : sums) s = _mm256_set1_ps(0.5f);
  const __m256 x = _mm256_set1_ps(0.999f);
  for (int64_t i = 0; i < kRounds * kChains / kFew; ++i) {
#pragma GCC unroll 12
    for (__m256& s : sums) s = _mm256_fmadd_ps(s, x, x);
  }
  for (const __m256& s : sums) sink = _mm256_cvtss_f32(s);
}
#endif

void ReadPlain(const std::byte* p, size_t bytes) {
  uint64_t sum = 0;
  const auto* words = reinterpret_cast<const uint64_t*>(p);
  for (size_t i = 0; i < bytes / 8; ++i) sum ^= words[i];
  sink = static_cast<float>(sum);
}

}  // namespace

double Now(const ThreadTeam& team) {
  timespec t{};
  clock_gettime(team.size() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double ReadBandwidth(std::span<const std::byte> memory, ThreadTeam& team) {
  auto read = ReadPlain;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) read = Read512;
#endif
  const size_t part = memory.size() / static_cast<size_t>(team.size()) / 256 * 256;
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    best = std::min(best, SecondsOf(team, [&](int thread) {
                      read(memory.data() + static_cast<size_t>(thread) * part, part);
                    }));
  }
  return static_cast<double>(part) * team.size() / best;
}

double FmaPeak(ThreadTeam& team) {
#if defined(__x86_64__)
  const bool wide = __builtin_cpu_supports("avx512f");
  if (!wide && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return 0.0;
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    best = std::min(best, SecondsOf(team, [&](int) { wide ? Fma512() : Fma256(); }));
  }
  return 2.0 * (wide ? 16 : 8) * kChains * kRounds * team.size() / best;
#else
  (void)team;
  return 0.0;
#endif
}

double Bf16DotPeak(ThreadTeam& team) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx512bf16")) return 0.0;
  double best = 1e9;
  for (int i = 0; i < 5; ++i) best = std::min(best, SecondsOf(team, [](int) { Dot512(); }));
  return 2.0 * 32 * kChains * kRounds * team.size() / best;
#else
  (void)team;
  return 0.0;
#endif
}

}  // namespace choir::bench
