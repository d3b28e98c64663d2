// What the files of the module give to module.cc.
#pragma once

#include "kernels/cuda/cublaslt_table.h"
#include "kernels/cuda/device_table.h"
#include "kernels/cuda/kernel_table.h"
#include "kernels/cuda/nccl_table.h"

namespace choir::cuda {

void FillDevice(DeviceTable* table);
void FillNccl(NcclTable* table);
void FillCublasLt(CublasLtTable* table);
void FillTensorAttention(KernelTable* table);
void FillTensorChoices(KernelTable* table);
void FillTensorRows(KernelTable* table);
void FillTensorProducts(KernelTable* table);
void FillHopperProducts(KernelTable* table);  // leaves it as it is where 90a is not built
void FillSimpleRows(KernelTable* table);
void FillSimpleProducts(KernelTable* table);
void FillSimpleChoices(KernelTable* table);

}  // namespace choir::cuda
