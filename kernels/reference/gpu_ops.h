// The oracle of the ops that only the GPU path has (kernels/cuda/kernel_table.h): as their formulas
// read, one element at a time, sums in double. Host memory.
#pragma once

#include "kernels/ops/grouped_gemm.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/slots.h"

namespace choir::reference {

void Permute(const PermuteArgs& args);
void Unpermute(const UnpermuteArgs& args);
void PlaceChoices(const PlaceChoicesArgs& args);
void GatherRows(const GatherRowsArgs& args);
void GroupedGemm(const GroupedGemmArgs& args);
void QuantizeF8(const QuantizeF8Args& args);
void Dequantize(const DequantizeArgs& args);

}  // namespace choir::reference
