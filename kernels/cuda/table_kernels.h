// A table of GPU ops as a KernelSet. Only forwards: free of CUDA, so it is in every binary.
#pragma once

#include <memory>
#include <string>

#include "kernels/cuda/kernel_table.h"
#include "kernels/kernels.h"

namespace choir {

// `table` outlives the set. Of an op's Stream it uses `native` and `workspace`, which is device
// memory. `chip` goes into the set's name where bits may differ between kinds of cards: "sm90".
std::unique_ptr<KernelSet> MakeTableKernels(const cuda::KernelTable& table,
                                            const std::string& chip = "");

}  // namespace choir
