// Dense products by cuBLASLt as plain functions: what a card can do at most, and the time beside
// our own kernels' (tools/gpu_check). No layer computes with them. The library is opened when it is
// first needed; `const char*` results are null for success, else why not (static text). Free of
// CUDA, cuBLAS and abseil.
//
// Thread: the owner thread of the device, which has called DeviceTable::use.
#pragma once

#include <cstddef>
#include <cstdint>

namespace choir::cuda {

// y = x · wᵀ with y in bf16. kF8: E4M3, one scale a tensor (1 where none is given). kF8Blocks:
// E4M3, a scale for each 128 columns of x and each 128x128 block of w, as DeepSeek-V3's weights
// have.
enum class DenseFormat : int32_t { kBF16, kF8, kF8Blocks };

struct DenseShape {
  int64_t m = 0, n = 0, k = 0;  // f8: multiples of 16
  DenseFormat format = DenseFormat::kBF16;
};

// Device memory that outlives the plan; aligned to 256 bytes.
struct DenseOperands {
  const void* x = nullptr;         // [m, k]
  const void* w = nullptr;         // [n, k]
  void* y = nullptr;               // [m, n] bf16
  const float* x_scale = nullptr;  // kF8Blocks: [ceil(k / 128), m], room for 4 more each way
  const float* w_scale = nullptr;  // kF8Blocks: [ceil(n / 128), ceil(k / 128)], likewise
  void* workspace = nullptr;       // 32 MiB let cuBLASLt choose freely on Hopper
  size_t workspace_bytes = 0;
};

struct CublasLtTable {
  const char* (*open)(int32_t* version) = nullptr;  // 130100 is 13.1.0; again is harmless
  // Finds ways to compute this shape, `*choices` of them (at least 1), the likeliest best first.
  const char* (*make)(const DenseShape&, const DenseOperands&, void** plan,
                      int32_t* choices) = nullptr;
  const char* (*run)(void* plan, int32_t choice, void* stream) = nullptr;  // only enqueues
  void (*free)(void* plan) = nullptr;
};

}  // namespace choir::cuda
