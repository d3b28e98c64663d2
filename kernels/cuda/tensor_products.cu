// The products of tensor/products.cuh for the GPU. Shapes, bounds and plan stand there.
#include "kernels/cuda/gpu_block.cuh"
#include "kernels/cuda/module_parts.h"
#include "kernels/cuda/tensor/products.cuh"

namespace choir::cuda {

void FillTensorProducts(KernelTable* table) { FillTensor<GpuRunner>(table); }

}  // namespace choir::cuda
