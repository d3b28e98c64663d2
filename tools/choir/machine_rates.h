// What this machine can do at most, measured: how fast the cores together read memory and multiply.
// The floors of `choir bench model` are computed from it. Main thread; keeps `num_threads` cores
// busy.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace choir {

struct MachineRates {
  std::string cpu;  // as the system names it
  int num_threads = 1;
  double read_bytes_per_s = 0;
  double fma_flops_per_s = 0;   // f32, the widest vectors that the CPU has; 0: not known for it
  double bf16_flops_per_s = 0;  // f32 sums of bf16 products; 0 without such an instruction
};

// About a second; uses 512 MiB.
MachineRates MeasureMachine(int num_threads);

// "NAME, 2 threads: reads 40.1 GB/s, ..." and the same as JSON.
std::string MachineText(const MachineRates& rates);
nlohmann::ordered_json MachineJson(const MachineRates& rates);

}  // namespace choir
