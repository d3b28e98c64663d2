#include "worker/backend.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/table_kernels.h"
#include "worker/device/table_device.h"
#include "worker/expert_options.h"
#include "worker/host_identity.h"
#include "worker/kernel_check.h"

namespace choir {
namespace {

StatusOr<std::unique_ptr<KernelSet>> KernelsOf(const std::string& path) {
  if (path == "reference") return MakeReferenceKernels();
  return MakeCpuKernels(path);
}

StatusOr<Backend> OpenCpu(const std::string& path) {
  Backend backend;
  CHOIR_ASSIGN_OR_RETURN(backend.kernels, KernelsOf(path));
  return backend;
}

StatusOr<const cuda::KernelTable*> ChooseKernels(const cuda::DeviceInfo& info,
                                                 const BackendOptions& options, Backend* backend) {
  const cuda::Module& module = *backend->module;
  const std::string& asked = options.cuda_kernels;
  if (asked == "simple") return &module.simple;
  if (asked == "tensor") return &module.tensor;
  if (!HasHopperKernels(module, info)) {
    if (asked != "hopper") return &module.tensor;
    return FailedPrecondition(
        "--cuda-kernels hopper: {} has compute capability {}.{}, they are for 9.0 in a build with "
        "90a ({}): leave it at auto",
        backend->gpu->Name(), info.major, info.minor, module.architectures);
  }
  if (asked == "hopper") return &module.hopper;
  const auto differs =
      DifferenceOfKernels({module.device, backend->card,
                           BoundedWait(module.device, backend->gpu->Name(), options.wait)},
                          module.hopper, module.simple);
  if (!differs.ok()) {
    return Unavailable(
        "{}: {}, while the kernels for Hopper were checked on it: if it starts with "
        "--cuda-kernels tensor they are at fault, else the card",
        backend->gpu->Name(), MessageOf(differs.status()));
  }
  if (differs->empty()) return &module.hopper;
  backend->why_tensor = *differs;
  return &module.tensor;
}

StatusOr<Backend> OpenCuda(const BackendOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const cuda::Module* module, OpenUsableCudaModule(options.cuda_module));
  int32_t cards = 0;
  char detail[256] = {};
  (void)module->device.probe(&cards, detail, sizeof detail);
  const auto card = static_cast<int32_t>(options.index % std::max(cards, 1));
  Backend backend;
  backend.module = module;
  backend.card = card;
  CHOIR_ASSIGN_OR_RETURN(const cuda::DeviceInfo info, UsableCard(*module, card));
  CHOIR_ASSIGN_OR_RETURN(backend.gpu, MakeTableDevice(module->device, card, options.wait));
  CHOIR_ASSIGN_OR_RETURN(const cuda::KernelTable* kernels, ChooseKernels(info, options, &backend));
  backend.kernels = MakeTableKernels(*kernels, fmt::format("sm{}{}", info.major, info.minor));
  return backend;
}

}  // namespace

BackendOptions BackendOptionsOf(const WorkerConfig& config) {
  return {.device = config.device,
          .cpu_path = config.cpu_path,
          .cuda_kernels = config.cuda_kernels,
          .index = config.group * config.ranks + config.rank,
          .wait = {.limit = config.device_timeout}};
}

StatusOr<Backend> OpenBackend(const BackendOptions& options) {
  if (options.device == "cpu") return OpenCpu(options.cpu_path);
  if (options.device == "auto" && options.cpu_path != "auto") {
    CHOIR_ASSIGN_OR_RETURN(Backend backend, OpenCpu(options.cpu_path));
    backend.why_cpu = fmt::format("--cpu-path {} was given", options.cpu_path);
    return backend;
  }
  StatusOr<Backend> gpu = OpenCuda(options);
  if (gpu.ok()) return gpu;
  if (options.device == "cuda") return Annotate(gpu.status(), "--device cuda");
  CHOIR_ASSIGN_OR_RETURN(Backend backend, OpenCpu(options.cpu_path));
  backend.why_cpu = MessageOf(gpu.status());
  return backend;
}

std::unique_ptr<DeviceJoin> MakeDeviceJoin(const Backend& backend, const WorkerConfig& config,
                                           std::function<StatusOr<std::string>()> address) {
  if (backend.gpu == nullptr) return nullptr;
  DeviceJoinOptions options{.device = &backend.module->device,
                            .nccl = &backend.module->nccl,
                            .card = backend.card,
                            .machine = MachineIdentity(),
                            .timeout = config.collective_timeout,
                            .step_tokens = config.step_tokens,
                            .slot_rows = config.slot_rows,
                            .micro_batch_rows = config.micro_batch_rows,
                            .slot_output_bytes = SlotOptionsOf(config).output_bytes,
                            .address = std::move(address)};
  if (config.device_exchange == "nccl") options.wish = DeviceWish::kNccl;
  if (config.device_exchange == "host") options.wish = DeviceWish::kHost;
  return std::make_unique<DeviceJoin>(std::move(options));
}

Status OpenHostKernels(const std::string& cpu_path, Backend* backend) {
  if (backend->gpu == nullptr) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(backend->host_kernels, KernelsOf(cpu_path));
  return absl::OkStatus();
}

}  // namespace choir
