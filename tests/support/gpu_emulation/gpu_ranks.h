// Ranks that compute on a GPU: on emulated cards everywhere, and on the GPU itself where the module
// beside the test finds one; then all ranks share the first card, each with a stream of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "worker/device/device.h"

namespace choir {

struct GpuRank {
  std::unique_ptr<Device> device;
  std::unique_ptr<KernelSet> kernels;
};

// `table`: a name of GpuTableNames(). The thread that calls it may use the device.
GpuRank MakeGpuRank(const std::string& table, int rank);

}  // namespace choir
