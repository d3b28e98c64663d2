#include "kernels/cuda/module_loader.h"

#include <dlfcn.h>

#include <filesystem>

namespace choir {

std::string DefaultCudaModule() {
  std::error_code ignored;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return (program.parent_path() / cuda::kModuleFile).string();
}

StatusOr<const cuda::Module*> OpenCudaModule(const std::string& path) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::is_regular_file(path, ignored)) {
    return NotFound(
        "no CUDA module: it is missing beside the program: {}; copy it there from the build's bin, "
        "or "
        "build it with nvcc of the CUDA toolkit 13",
        path);
  }
  // With a slash in it, or dlopen would search its own folders.
  const std::string file = std::filesystem::absolute(path).string();
  void* module = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    const char* why = dlerror();
    return FailedPrecondition(
        "the CUDA module cannot be opened: {}; install the libraries it names (cuBLASLt and NCCL "
        "of CUDA 13) or add their folder to LD_LIBRARY_PATH",
        why != nullptr ? why : file);
  }
  const auto create = reinterpret_cast<cuda::CreateModule>(dlsym(module, cuda::kModuleEntry));
  if (create == nullptr) {
    return FailedPrecondition("{} has no function {}: it is not a CUDA module of Choir", file,
                              cuda::kModuleEntry);
  }
  const cuda::Module* table = create(cuda::kModuleApiVersion);
  if (table == nullptr || table->api_version != cuda::kModuleApiVersion) {
    return FailedPrecondition(
        "{} speaks another version than this program ({}): use the module of the same build", file,
        cuda::kModuleApiVersion);
  }
  return table;
}

StatusOr<const cuda::Module*> OpenUsableCudaModule(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const cuda::Module* module, OpenCudaModule(path));
  char detail[256] = {};
  int32_t devices = 0;
  switch (module->device.probe(&devices, detail, sizeof detail)) {
    case cuda::Probe::kReady:
      return module;
    case cuda::Probe::kNoDriver:
      return Unavailable("no NVIDIA driver here ({}): install one, or give the container the GPU",
                         detail);
    case cuda::Probe::kOldDriver:
      return Unavailable("the NVIDIA driver is too old for this build ({}): it needs 580 or newer",
                         detail);
    case cuda::Probe::kNoDevice:
      return Unavailable("the NVIDIA driver shows no GPU ({}): check CUDA_VISIBLE_DEVICES", detail);
    case cuda::Probe::kFailed:
      break;
  }
  return Unavailable("the GPU does not answer ({}): see the kernel log for Xid errors", detail);
}

}  // namespace choir
