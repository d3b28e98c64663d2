// The table of the simple GPU kernels, run on the CPU from the module's own source. A stream's
// `native` is an EmulatedStream, or null: at once, threads in order.
#pragma once

#include "kernels/cuda/kernel_table.h"
#include "tests/support/gpu_emulation/emulated_stream.h"

namespace choir::emulation {

const cuda::KernelTable& EmulatedTable();
const cuda::KernelTable& EmulatedTensorTable();  // products on emulated tensor cores

}  // namespace choir::emulation
