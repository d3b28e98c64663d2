#include "tools/choir/machine_rates.h"

#include <fmt/format.h>

#include <cstddef>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/runtime/thread_team.h"
#include "tools/bench/limits.h"

namespace choir {
namespace {

constexpr size_t kReadBytes = size_t{512} << 20;  // far beyond any cache

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

MachineRates MeasureMachine(int num_threads) {
  MachineRates rates;
  rates.cpu = CpuName();
  rates.num_threads = num_threads;
  ThreadTeam team(num_threads);
  const std::vector<std::byte> memory(kReadBytes, std::byte{1});
  rates.read_bytes_per_s = bench::ReadBandwidth(memory, team);
  rates.fma_flops_per_s = bench::FmaPeak(team);
  rates.bf16_flops_per_s = bench::Bf16DotPeak(team);
  return rates;
}

std::string MachineText(const MachineRates& rates) {
  std::string text =
      fmt::format("{}, {} threads: reads {:.1f} GB/s, multiplies {:.0f} GFLOPS in f32", rates.cpu,
                  rates.num_threads, rates.read_bytes_per_s / 1e9, rates.fma_flops_per_s / 1e9);
  if (rates.bf16_flops_per_s > 0) {
    text += fmt::format(", {:.0f} in bf16", rates.bf16_flops_per_s / 1e9);
  }
  return text;
}

nlohmann::ordered_json MachineJson(const MachineRates& rates) {
  return {{"cpu", rates.cpu},
          {"threads", rates.num_threads},
          {"read_bytes_per_s", rates.read_bytes_per_s},
          {"fma_flops_per_s", rates.fma_flops_per_s},
          {"bf16_flops_per_s", rates.bf16_flops_per_s}};
}

}  // namespace choir
