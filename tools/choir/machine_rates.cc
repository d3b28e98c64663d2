#include "tools/choir/machine_rates.h"

#include <cstddef>
#include <cstring>
#include <fstream>
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

}  // namespace choir
