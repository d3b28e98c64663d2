// A build without 90a: the Hopper rung is not in the module.
#include "kernels/cuda/module_parts.h"

namespace choir::cuda {

void FillHopperProducts(KernelTable*) {}

}  // namespace choir::cuda
