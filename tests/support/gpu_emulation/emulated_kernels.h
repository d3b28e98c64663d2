// The table of the simple GPU kernels, run on the CPU from the module's own source. A stream's
// `native` may point to an Order, in which the threads of a block then take turns.
#pragma once

#include "kernels/cuda/kernel_table.h"
#include "tests/support/gpu_emulation/emulated_block.h"

namespace choir::emulation {

const cuda::KernelTable& EmulatedTable();
const cuda::KernelTable& EmulatedTensorTable();  // products on emulated tensor cores

}  // namespace choir::emulation
