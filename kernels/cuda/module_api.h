// The C border of choir_cuda.so: one function, which returns tables of plain functions. The module
// is opened with dlopen (module_loader.h); nothing of CUDA is linked into Choir's binaries. Tables
// are only understood by a binary of the same api_version: raise it with every change to a struct
// that crosses (the tables, or an args struct of kernels/ops).
#pragma once

#include <cstdint>

#include "kernels/cuda/cublaslt_table.h"
#include "kernels/cuda/device_table.h"
#include "kernels/cuda/kernel_table.h"
#include "kernels/cuda/nccl_table.h"

namespace choir::cuda {

inline constexpr uint32_t kModuleApiVersion = 11;
inline constexpr const char* kModuleFile = "choir_cuda.so";
inline constexpr const char* kModuleEntry = "choir_cuda_create";

struct Module {
  uint32_t api_version = 0;
  const char* architectures = nullptr;  // "80-real;90a-real;100a-real"
  DeviceTable device;
  NcclTable nccl;
  CublasLtTable cublaslt;
  KernelTable simple;  // the oracle on the card
  KernelTable tensor;  // the same, products on tensor cores
  KernelTable hopper;  // the same, for compute capability 9.0 alone; no name: not in this build
};

// The type of kModuleEntry. Null: the module does not speak this version. Static, never freed.
using CreateModule = const Module* (*)(uint32_t api_version);

}  // namespace choir::cuda
