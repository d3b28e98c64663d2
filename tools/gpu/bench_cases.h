// What gpu_check times: every op of a table at the shapes of DeepSeek-V3 (or small ones, for tests
// of this file), with the bytes and FLOPs that its args struct promises.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "kernels/cuda/kernel_table.h"

namespace choir::gpu {

struct BenchShapes {
  int64_t tokens = 4096;  // of a prefill step
  int64_t batch = 64;     // of a decode step
  int64_t context = 4096;
  int64_t hidden = 7168;
  int64_t inner = 2048;
  int64_t experts = 256;  // of a layer; a multiple of 8
  int64_t top_k = 8;
  int64_t grouped_rows = 8192;  // of each of 4 experts, contiguous form
  int64_t heads = 128;
  int64_t lora = 512;
  int64_t rope = 64;
  int64_t vocab = 129280;
};

// Where tensors lie. Contents: bytes that are ordinary small numbers in every dtype but i32, which
// is zero.
class BenchMemory {
 public:
  virtual ~BenchMemory() = default;
  virtual TensorView Make(DType dtype, std::initializer_list<int64_t> shape) = 0;
  virtual void Fill(const TensorView& i32, const std::vector<int32_t>& values) = 0;
};

struct BenchCase {
  std::string op;
  std::string shape;
  int64_t bytes = 0;
  int64_t flops = 0;
  std::function<void(const cuda::KernelStream&)> run;
};

// Calls use(case) for one case after another. A case runs only until `use` returns.
void ForBenchCases(const cuda::KernelTable& table, const BenchShapes& shapes, BenchMemory& memory,
                   const std::function<void(const BenchCase&)>& use);

}  // namespace choir::gpu
