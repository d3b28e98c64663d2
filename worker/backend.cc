#include "worker/backend.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "kernels/cuda/table_kernels.h"
#include "worker/device/table_device.h"

namespace choir {
namespace {

StatusOr<Backend> OpenCpu(const std::string& path) {
  Backend backend;
  if (path == "reference") {
    backend.kernels = MakeReferenceKernels();
    return backend;
  }
  CHOIR_ASSIGN_OR_RETURN(backend.kernels, MakeCpuKernels(path));
  return backend;
}

StatusOr<Backend> OpenCuda(const std::string& module_path, int64_t index) {
  CHOIR_ASSIGN_OR_RETURN(const cuda::Module* module, OpenUsableCudaModule(module_path));
  int32_t cards = 0;
  char detail[256] = {};
  (void)module->device.probe(&cards, detail, sizeof detail);
  const auto card = static_cast<int32_t>(index % std::max(cards, 1));
  Backend backend;
  CHOIR_ASSIGN_OR_RETURN(backend.gpu, MakeTableDevice(module->device, card));
  cuda::DeviceInfo info;
  if (const char* error = module->device.info(card, &info)) {
    return Unavailable("{}: {}", backend.gpu->Name(), error);
  }
  if (!RunsOn(module->architectures, info.major, info.minor)) {
    return FailedPrecondition(
        "{} has compute capability {}.{}, this build is for {}: build with "
        "-DCMAKE_CUDA_ARCHITECTURES={}{}",
        backend.gpu->Name(), info.major, info.minor, module->architectures, info.major, info.minor);
  }
  backend.kernels = MakeTableKernels(module->tensor, fmt::format("sm{}{}", info.major, info.minor));
  return backend;
}

}  // namespace

StatusOr<Backend> OpenBackend(const std::string& device, const std::string& cpu_path, int64_t index,
                              const std::string& cuda_module) {
  if (device == "cpu") return OpenCpu(cpu_path);
  if (device == "auto" && cpu_path != "auto") {
    CHOIR_ASSIGN_OR_RETURN(Backend backend, OpenCpu(cpu_path));
    backend.why_cpu = fmt::format("--cpu-path {} was given", cpu_path);
    return backend;
  }
  StatusOr<Backend> gpu = OpenCuda(cuda_module, index);
  if (gpu.ok()) return gpu;
  if (device == "cuda") return Annotate(gpu.status(), "--device cuda");
  CHOIR_ASSIGN_OR_RETURN(Backend backend, OpenCpu(cpu_path));
  backend.why_cpu = MessageOf(gpu.status());
  return backend;
}

// "80-real" runs on 8.0 and what follows in that family; an "a" binds to the very capability.
bool RunsOn(const std::string& architectures, int32_t major, int32_t minor) {
  const char* const end = architectures.data() + architectures.size();
  for (const char* at = architectures.data(); at < end; ++at) {
    int32_t number = 0;
    const auto [after, error] = std::from_chars(at, end, number);
    if (error != std::errc()) continue;
    const bool exact = after < end && *after == 'a';
    if (number / 10 == major && (exact ? number % 10 == minor : number % 10 <= minor)) return true;
    at = after;
  }
  return false;
}

}  // namespace choir
