// The simple kernels of simple_table.cuh's FillChoices, for the GPU. Shapes, bounds and plans stand
// beside each kernel under simple/.
#include "kernels/cuda/gpu_block.cuh"
#include "kernels/cuda/module_parts.h"
#include "kernels/cuda/simple/simple_table.cuh"

namespace choir::cuda {

void FillSimpleChoices(KernelTable* table) { FillChoices<GpuRunner>(table); }

}  // namespace choir::cuda
