// What a worker computes with: a device and the kernels for it, by the options --device, --cpu-path
// and --cuda-kernels.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/status.h"
#include "kernels/cuda/module_loader.h"
#include "kernels/kernels.h"
#include "worker/comm/device_join.h"
#include "worker/config.h"
#include "worker/device/bounded_wait.h"
#include "worker/device/device.h"

namespace choir {

struct Backend {
  std::unique_ptr<Device> gpu;  // null: the CPU computes
  std::unique_ptr<KernelSet> kernels;
  std::string why_cpu;  // with "auto": what is missing for a GPU
  // With kernels "auto" on compute capability 9.0: what is wrong with hopper.
  std::string why_tensor;
  const cuda::Module* module = nullptr;  // of the GPU
  int32_t card = 0;
  std::unique_ptr<KernelSet> host_kernels;  // for experts that the GPU leaves to the CPU; or null

  Device* device() const { return gpu != nullptr ? gpu.get() : &HostDevice(); }
};

struct BackendOptions {
  // "cpu"; "cuda", and an error says what is missing; "auto": the GPU if it can be used and no CPU
  // path was asked for, else the CPU.
  std::string device = "cpu";
  std::string cpu_path = "auto";  // as MakeCpuKernels, or "reference"
  // "simple", "tensor" or "hopper", a table of the module; "auto": hopper on compute capability 9.0
  // if that very card passes the check of kernel_check.h, else tensor, with why_tensor.
  std::string cuda_kernels = "auto";
  int64_t index = 0;  // worker of the machine: of several cards it takes number index % cards
  std::string cuda_module = DefaultCudaModule();
  WaitBound wait = {};  // of each wait for the GPU
};

BackendOptions BackendOptionsOf(const WorkerConfig& config);
StatusOr<Backend> OpenBackend(const BackendOptions& options);

// Joins the ranks' GPUs by what `config` says of them; `address` as in DeviceJoinOptions. Null: the
// CPU computes.
std::unique_ptr<DeviceJoin> MakeDeviceJoin(const Backend& backend, const WorkerConfig& config,
                                           std::function<StatusOr<std::string>()> address);

// Adds `host_kernels` to a backend with a GPU; does nothing to others.
Status OpenHostKernels(const std::string& cpu_path, Backend* backend);

}  // namespace choir
