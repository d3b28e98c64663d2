// The products of hopper/ for the GPU, compiled for 90a alone. Shapes, bounds and plan stand in
// hopper/product.cuh.
#include "kernels/cuda/hopper/hopper_table.cuh"
#include "kernels/cuda/hopper_block.cuh"
#include "kernels/cuda/module_parts.h"

namespace choir::cuda {

void FillHopperProducts(KernelTable* table) {
  table->name = "cuda-hopper3";  // the number rises with every change of its bits
  FillHopper<HopperRunner>(table);
}

}  // namespace choir::cuda
