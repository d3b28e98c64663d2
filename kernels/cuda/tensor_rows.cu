// The row ops of tensor/fast_rows.cuh for the GPU. Shapes, bounds and plans stand there.
#include "kernels/cuda/gpu_block.cuh"
#include "kernels/cuda/module_parts.h"
#include "kernels/cuda/tensor/fast_rows.cuh"

namespace choir::cuda {

void FillTensorRows(KernelTable* table) { FillTensorRows<GpuRunner>(table); }

}  // namespace choir::cuda
