// A module without a GPU behind it; the build makes one library for each way to be wrong.
#include <cstdio>

#include "kernels/cuda/module_api.h"

namespace {

choir::cuda::Probe Answer(int32_t* num_devices, char* detail, size_t detail_bytes) {
  *num_devices = 0;
  std::snprintf(detail, detail_bytes, "a fake one");
  return choir::cuda::Probe::FAKE_PROBE;
}

}  // namespace

extern "C" const choir::cuda::Module* FAKE_ENTRY(uint32_t) {
  static choir::cuda::Module module;
  module.api_version = choir::cuda::kModuleApiVersion + FAKE_VERSION_AHEAD;
  module.device.probe = Answer;
  return &module;
}
