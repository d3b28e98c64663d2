// An emulated card, and shapes that it takes no time for: what tests of gpu_check measure.
#pragma once

#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"
#include "tools/gpu/bench_cases.h"
#include "tools/gpu/must.h"

namespace choir::gpu {

inline const cuda::DeviceTable& UsedDevice() {
  Must(emulation::EmulatedDevices().use(0), "the emulated card");
  return emulation::EmulatedDevices();
}

inline CardOptions SmallCardOptions() {
  return {.pool_bytes = 4099,
          .flush_bytes = 64,
          .workspace_bytes = size_t{1} << 20,
          .case_ms = 0,
          .runs_max = 1};
}

struct SmallCard {
  Card card{UsedDevice(), SmallCardOptions()};
};

inline const std::vector<const cuda::KernelTable*>& EmulatedTables() {
  static const std::vector<const cuda::KernelTable*> tables = {&emulation::EmulatedTable(),
                                                               &emulation::EmulatedTensorTable()};
  return tables;
}

// The shapes that `choir-gpu-check --small` takes.
inline BenchShapes SmallShapes() { return BenchShapes::Small(); }

}  // namespace choir::gpu
