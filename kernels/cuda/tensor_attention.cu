// The attention of tensor/attention.cuh for the GPU. Shapes, bounds and plan stand there.
#include "kernels/cuda/gpu_block.cuh"
#include "kernels/cuda/module_parts.h"
#include "kernels/cuda/tensor/attention.cuh"

namespace choir::cuda {

void FillTensorAttention(KernelTable* table) { FillTensorAttention<GpuRunner>(table); }

}  // namespace choir::cuda
