// Opens the CUDA module and says why not, in words for an operator: no module, a wrong version, no
// driver, an old driver, no GPU. The module stays open until the process ends.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.h"
#include "kernels/cuda/module_api.h"

namespace choir {

// choir_cuda.so in the folder of this program, where the build puts it.
std::string DefaultCudaModule();

// The module, whatever the machine has. NotFound: there is no such file, as when the build had no
// nvcc. FailedPrecondition: it cannot be opened (a library it needs), has no entry, or speaks
// another version. Any thread.
StatusOr<const cuda::Module*> OpenCudaModule(const std::string& path);

// The module, on a machine with a GPU that it can use; Unavailable says what is missing.
StatusOr<const cuda::Module*> OpenUsableCudaModule(const std::string& path);

// Whether code that was built for `architectures` ("80-real, 90a-real") runs on a card of this
// compute capability.
bool RunsOn(const std::string& architectures, int32_t major, int32_t minor);

// Whether the module has kernels for Hopper, and the card is one.
bool HasHopperKernels(const cuda::Module& module, const cuda::DeviceInfo& info);

// What this card of the machine is, where the module's code runs on it. Unavailable: it does not
// answer. FailedPrecondition: the build is for other cards.
StatusOr<cuda::DeviceInfo> UsableCard(const cuda::Module& module, int32_t card);

}  // namespace choir
