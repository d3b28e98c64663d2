#include "tools/choir/machine_rates.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>

#include "common/base/clock.h"
#include "common/runtime/thread_team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace choir {
namespace {

constexpr size_t kReadBytes = size_t{512} << 20;  // far beyond any cache
constexpr int kRepeats = 5;
constexpr int64_t kFlopLoops = 20'000'000;  // some 10 ms
constexpr int kChains = 12;                 // independent sums hide the latency of the unit

std::atomic<uint64_t> g_sink{0};  // keeps the compiler from dropping what nobody reads

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

double TimeOf(ThreadTeam& team, const std::function<void(int)>& fn) {
  const MonoTime start = Clock::Real().Now();
  team.Run(fn);
  return Seconds(Clock::Real().Now() - start);
}

template <typename Fn>
double Best(Fn rate) {
  double best = 0;
  for (int i = 0; i < kRepeats; ++i) best = std::max(best, rate());
  return best;
}

// Four sums of whole words in `streams` places at once; the compiler vectorizes them.
uint64_t ReadAll(const uint64_t* data, size_t words, size_t streams) {
  const size_t part = words / streams / 8 * 8;
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= part; i += 8) {
    for (size_t s = 0; s < streams; ++s) {
      for (size_t j = 0; j < 8; ++j) sums[j] += data[s * part + i + j];
    }
  }
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

double ReadRate(ThreadTeam& team, const uint64_t* data, size_t streams) {
  const size_t words = kReadBytes / sizeof(uint64_t) / static_cast<size_t>(team.size());
  const double seconds = TimeOf(team, [&](int thread) {
    g_sink += ReadAll(data + static_cast<size_t>(thread) * words, words, streams);
  });
  return static_cast<double>(words * sizeof(uint64_t)) * team.size() / seconds;
}

// Each loop adds kChains products of `lanes` numbers.
using FlopLoop = void (*)(int64_t loops);

void FmaPortable(int64_t loops) {
  float sums[kChains] = {};
  volatile float factor = 1.0f;
  const float x = factor;
  for (int64_t i = 0; i < loops; ++i) {
    for (float& sum : sums) sum = sum * x + x;
  }
  for (const float sum : sums) g_sink += static_cast<uint64_t>(sum);
}

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] void FmaAvx2(int64_t loops) {
  __m256 sums[kChains];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  const __m256 x = _mm256_set1_ps(static_cast<float>(loops % 3));
  for (int64_t i = 0; i < loops; ++i) {
    for (auto& sum : sums) sum = _mm256_fmadd_ps(x, x, sum);
  }
  for (const auto& sum : sums) g_sink += static_cast<uint64_t>(_mm256_cvtss_f32(sum));
}

[[gnu::target("avx512f")]] void FmaAvx512(int64_t loops) {
  __m512 sums[kChains];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  const __m512 x = _mm512_set1_ps(static_cast<float>(loops % 3));
  for (int64_t i = 0; i < loops; ++i) {
    for (auto& sum : sums) sum = _mm512_fmadd_ps(x, x, sum);
  }
  for (const auto& sum : sums) g_sink += static_cast<uint64_t>(_mm512_cvtss_f32(sum));
}

[[gnu::target("avx512f,avx512bf16")]] void DotAvx512Bf16(int64_t loops) {
  __m512 sums[kChains];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  const __m512 x = _mm512_set1_ps(static_cast<float>(loops % 3));
  const __m512bh pairs = _mm512_cvtne2ps_pbh(x, x);
  for (int64_t i = 0; i < loops; ++i) {
    for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, pairs, pairs);
  }
  for (const auto& sum : sums) g_sink += static_cast<uint64_t>(_mm512_cvtss_f32(sum));
}
#endif

double FlopRate(ThreadTeam& team, FlopLoop loop, int flops_per_sum) {
  return Best([&] {
    const double seconds = TimeOf(team, [&](int) { loop(kFlopLoops / kChains); });
    const int64_t sums = kFlopLoops / kChains * kChains;
    return static_cast<double>(sums) * flops_per_sum * team.size() / seconds;
  });
}

void MeasureFlops(ThreadTeam& team, MachineRates* rates) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    rates->fma_flops_per_s = FlopRate(team, FmaAvx512, 32);
    if (__builtin_cpu_supports("avx512bf16")) {
      rates->bf16_flops_per_s = FlopRate(team, DotAvx512Bf16, 64);
    }
    return;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    rates->fma_flops_per_s = FlopRate(team, FmaAvx2, 16);
    return;
  }
#endif
  rates->fma_flops_per_s = FlopRate(team, FmaPortable, 2);
}

}  // namespace

MachineRates MeasureMachine(int num_threads) {
  MachineRates rates;
  rates.cpu = CpuName();
  rates.num_threads = num_threads;
  ThreadTeam team(num_threads);
  const size_t words = kReadBytes / sizeof(uint64_t);
  const std::unique_ptr<uint64_t[]> data(new uint64_t[words]);
  team.For(static_cast<int64_t>(words), 1, [&](int64_t begin, int64_t end) {
    std::memset(data.get() + begin, 1, static_cast<size_t>(end - begin) * sizeof(uint64_t));
  });
  // Which number of streams a core reads fastest differs among CPUs.
  for (const size_t streams : {1, 4}) {
    rates.read_bytes_per_s =
        std::max(rates.read_bytes_per_s, Best([&] { return ReadRate(team, data.get(), streams); }));
  }
  MeasureFlops(team, &rates);
  return rates;
}

}  // namespace choir
