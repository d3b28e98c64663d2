// The table of the simple GPU kernels, run on the CPU from the module's own source. A stream's
// `native` is an EmulatedStream, or null: at once, threads in order.
#pragma once

#include "kernels/cuda/arch.cuh"
#include "kernels/cuda/kernel_table.h"
#include "tests/support/gpu_emulation/emulated_stream.h"

namespace choir::emulation {

const cuda::KernelTable& EmulatedTable();
const cuda::KernelTable& EmulatedTensorTable();  // products and attention on tensor cores
const cuda::KernelTable& EmulatedHopperTable();  // copy engine and asynchronous tensor cores

// What launchers of this thread are told of the card from now on, and what it refuses to start. At
// first: few multiprocessors, so that small
// cases take the plans of large ones.
inline constexpr cuda::CardLimits kEmulatedCard{.multiprocessors = 4, .shared_bytes = 227 * 1024};
void SetEmulatedCard(const cuda::CardLimits& limits);
// From now on the driver refuses maps of tensors to this thread, or takes them again.
void RefuseMaps(bool refuse);
// From now on an op of this thread that copies more values of the host than these by itself, from
// memory that is not pinned, leaves an error. SIZE_MAX: none does.
void LimitUploads(size_t bytes);
// Kernels that ops of this thread have started so far.
int64_t KernelsStarted();

}  // namespace choir::emulation
