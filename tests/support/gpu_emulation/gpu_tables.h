// Where the suites of GPU kernels run: in the emulation everywhere, and on the GPU itself where the
// module beside the test finds one. Test tensors lie in memory that both can read.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/kernel_table.h"

namespace choir {

// "gpu_emulated" and "gpu_tensor_emulated"; where there is one "gpu" and "gpu_tensor", and on
// compute capability 9.0 "gpu_hopper".
std::vector<std::string> GpuTableNames();
// "gpu_hopper_emulated", and "gpu_hopper" where there is one: for suites of what only these do, as
// the emulation of the others has been run on all the rest.
std::vector<std::string> HopperTableNames();

// Of them those whose products are no tensor cores': f32 to its last bits.
std::vector<std::string> SimpleTableNames();
// `emulated`, and the fastest that a card has where there is one: for suites of whole models, which
// are run on one table of each.
std::vector<std::string> EmulatedAndCards(const std::string& emulated);

// Ops of these tables are done when they return. Static; an unknown name is a failed CHECK.
const cuda::KernelTable& GpuTable(const std::string& name);

// Zeroed bytes, aligned to 256; managed memory where there is a GPU.
std::shared_ptr<std::byte> TestBytes(size_t bytes);

}  // namespace choir
