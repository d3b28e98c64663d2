// What a worker computes with: a device and the kernels for it, by the options --device and
// --cpu-path.
#pragma once

#include <memory>
#include <string>

#include "common/base/status.h"
#include "kernels/cuda/module_loader.h"
#include "kernels/kernels.h"
#include "worker/device/device.h"

namespace choir {

struct Backend {
  std::unique_ptr<Device> gpu;  // null: the CPU computes
  std::unique_ptr<KernelSet> kernels;
  std::string why_cpu;  // with "auto": what is missing for a GPU

  Device* device() const { return gpu != nullptr ? gpu.get() : &HostDevice(); }
};

// `device`: "cpu"; "cuda", and an error says what is missing; "auto": the GPU if it can be used and
// no CPU path was asked for, else the CPU. `cpu_path`: as MakeCpuKernels, or "reference". Of
// several cards that the driver shows, worker `index` of the machine takes number index % cards.
StatusOr<Backend> OpenBackend(const std::string& device, const std::string& cpu_path, int64_t index,
                              const std::string& cuda_module = DefaultCudaModule());

// Whether code that was built for `architectures` ("80-real, 90a-real") runs on a card of this
// compute capability.
bool RunsOn(const std::string& architectures, int32_t major, int32_t minor);

}  // namespace choir
