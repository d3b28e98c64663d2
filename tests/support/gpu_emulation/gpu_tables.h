// Where the suites of GPU kernels run: in the emulation everywhere, and on the GPU itself where the
// module beside the test finds one. Test tensors lie in memory that both can read.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/kernel_table.h"

namespace choir {

// "gpu_emulated" and "gpu_tensor_emulated"; "gpu" and "gpu_tensor" where there is one.
std::vector<std::string> GpuTableNames();

// Ops of these tables are done when they return. Static; an unknown name is a failed CHECK.
const cuda::KernelTable& GpuTable(const std::string& name);

// Zeroed bytes, aligned to 256; managed memory where there is a GPU.
std::shared_ptr<std::byte> TestBytes(size_t bytes);

}  // namespace choir
