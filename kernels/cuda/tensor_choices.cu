// The gate, permutations and sampler of tensor/choices.cuh for the GPU. Shapes, bounds and plans
// stand there.
#include "kernels/cuda/gpu_block.cuh"
#include "kernels/cuda/module_parts.h"
#include "kernels/cuda/tensor/choices.cuh"

namespace choir::cuda {

void FillTensorChoices(KernelTable* table) { FillTensorChoices<GpuRunner>(table); }

}  // namespace choir::cuda
