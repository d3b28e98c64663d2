#include "kernels/cuda/module_loader.h"

#include <dlfcn.h>

#include <charconv>
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
        "or build it with nvcc of the CUDA toolkit 13",
        path);
  }
  // With a slash in it, or dlopen would search its own folders.
  const std::string file = std::filesystem::absolute(path).string();
  void* module = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    const char* why = dlerror();
    return FailedPrecondition(
        "the CUDA module cannot be opened: {}; use the module of the same build, and install the "
        "library that this names or add its folder to LD_LIBRARY_PATH",
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
    case cuda::Probe::kNoDaemon:
      return Unavailable(
          "the NVIDIA driver waits for its daemons ({}): start nvidia-fabricmanager, of the "
          "driver's "
          "very version",
          detail);
    case cuda::Probe::kMismatch:
      return Unavailable(
          "the NVIDIA driver's module and libraries differ ({}): load the module anew, or reboot",
          detail);
    case cuda::Probe::kFailed:
      break;
  }
  return Unavailable("the GPU does not answer ({}): see the kernel log for Xid errors", detail);
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

bool HasHopperKernels(const cuda::Module& module, const cuda::DeviceInfo& info) {
  return module.hopper.name != nullptr && info.major == 9 && info.minor == 0;
}

StatusOr<cuda::DeviceInfo> UsableCard(const cuda::Module& module, int32_t card) {
  cuda::DeviceInfo info;
  if (const char* error = module.device.info(card, &info)) {
    return Unavailable("cuda:{}: {}", card, error);
  }
  if (RunsOn(module.architectures, info.major, info.minor)) return info;
  return FailedPrecondition(
      "cuda:{} ({}) has compute capability {}.{}, this build is for {}: build with "
      "-DCMAKE_CUDA_ARCHITECTURES={}{}{}",
      card, info.name, info.major, info.minor, module.architectures, info.major, info.minor,
      info.major >= 9 ? "a" : "");  // with what only that card has
}

}  // namespace choir
