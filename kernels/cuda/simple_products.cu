// The simple kernels of simple_table.cuh's FillProducts, for the GPU. Shapes, bounds and plans
// stand beside each kernel under simple/.
#include "kernels/cuda/gpu_block.cuh"
#include "kernels/cuda/module_parts.h"
#include "kernels/cuda/simple/simple_table.cuh"

namespace choir::cuda {

void FillSimpleProducts(KernelTable* table) { FillProducts<GpuRunner>(table); }

}  // namespace choir::cuda
