// Which paths there are, which this CPU has, and how much workspace they need.
#include "kernels/cpu/cpu_kernels.h"

#include "kernels/cpu/work.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace choir {
namespace {

// All paths that the CPU (and the kernel, which must save the registers: GCC's check asks XGETBV)
// has, best first.
std::vector<const cpu::Micro*> SupportedPaths() {
  std::vector<const cpu::Micro*> paths;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("fma");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) paths.push_back(&cpu::Avx512Bf16Micro());
  if (avx512) paths.push_back(&cpu::Avx512Micro());
  // Clang 14 knows no name for half conversion; its registers are AVX's.
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c) {
    paths.push_back(&cpu::Avx2Micro());
  }
#endif
  paths.push_back(&cpu::PortableMicro());
  return paths;
}

}  // namespace

std::vector<std::string> CpuPaths() {
  std::vector<std::string> names;
  for (const cpu::Micro* micro : SupportedPaths()) names.emplace_back(micro->name);
  return names;
}

StatusOr<std::unique_ptr<KernelSet>> MakeCpuKernels(const std::string& path) {
  std::string names;
  for (const cpu::Micro* micro : SupportedPaths()) {
    if (path == "auto" || path == micro->name) return std::make_unique<cpu::CpuKernels>(*micro);
    names += std::string(", ") + micro->name;
  }
  return InvalidArgument(
      "CPU kernels \"{}\" are unknown or not supported by this CPU; use one of: auto{}", path,
      names);
}

namespace cpu {

size_t CpuKernels::WorkspaceBytes(const KernelLimits& limits, int num_threads) const {
  const int64_t rows = std::min(limits.rows_max, kRoundedRows);
  const int64_t rounded = rows * Bf16Stride(limits.columns_max) * 2;
  // ExpertFfn: rounded rows, then per thread gate and up of one block.
  const int64_t experts = rounded + num_threads * kExpertThreadBytes;
  // HeadProject: per thread, the rounded rows of one head, as bf16 and as f32.
  const int64_t heads = num_threads * kExpertRows * limits.columns_max * 6 + num_threads * 128;
  // Attention: per thread and query row, scores, the query and the result.
  const int64_t attention_row = (limits.positions_max + 64 + 2 * limits.columns_max) * 4;
  const int64_t attention = num_threads * (kAttentionRows * attention_row + 4096);
  // Linear and ExpertFfn besides: per thread, four unpacked rows of w.
  const int64_t unpacked = num_threads * UnpackedBytes(limits.columns_max);
  return static_cast<size_t>(std::max({experts, heads, attention}) + unpacked + 4096);
}

}  // namespace cpu
}  // namespace choir
