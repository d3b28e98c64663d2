// Opens the CUDA module and says why not, in words for an operator: no module, a wrong version, no
// driver, an old driver, no GPU. The module stays open until the process ends.
#pragma once

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

}  // namespace choir
