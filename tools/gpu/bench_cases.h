// What gpu_check times: every op at the shapes of DeepSeek-V3 (or small ones, for tests of this
// file), with the bytes and FLOPs that its args struct promises.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/module_api.h"
#include "tools/gpu/card.h"
#include "tools/gpu/floor.h"

namespace choir::gpu {

struct BenchShapes {
  int64_t tokens = 4096;                  // of a prefill step
  std::vector<int64_t> batches{64, 128};  // of decode steps
  int64_t context = 4096;
  int64_t hidden = 7168;
  int64_t inner = 2048;   // of an expert
  int64_t dense = 18432;  // of a dense layer
  int64_t experts = 256;  // of a layer; a multiple of 8
  int64_t held = 32;      // of them by one rank
  int64_t top_k = 8;
  int64_t grouped_rows = 8192;  // of each of 4 experts, contiguous form
  int64_t decode_rows = 256;    // of each of 4 experts, masked form
  int64_t heads = 128;
  int64_t q_lora = 1536;
  int64_t lora = 512;
  int64_t nope = 128;
  int64_t rope = 64;
  int64_t vocab = 129280;

  static BenchShapes Small();  // for an emulated card
};

inline BenchShapes BenchShapes::Small() {
  return {.tokens = 5,
          .batches = {2, 3},
          .context = 40,
          .hidden = 96,
          .inner = 32,
          .dense = 40,
          .experts = 16,
          .held = 4,
          .top_k = 4,
          .grouped_rows = 18,
          .decode_rows = 6,
          .heads = 2,
          .q_lora = 24,
          .lora = 24,
          .nope = 8,
          .rope = 8,
          .vocab = 130};
}

struct BenchCase {
  std::string op;
  std::string shape;
  Work work;
  // What one of the figures asks: a name of FigureAims(); or empty.
  std::string figure;
  std::optional<cuda::DenseShape> dense;  // the same product as one matrix, for cuBLASLt
  std::function<void(const cuda::KernelTable&, const cuda::KernelStream&)> run;
  // Whether two tables run the same function here.
  std::function<bool(const cuda::KernelTable&, const cuda::KernelTable&)> same;
};

// Calls use(case) for one case after another, those that figures ask about first. A case and its
// memory are there only until `use` returns.
void ForBenchCases(const BenchShapes& shapes, Card& card,
                   const std::function<void(const BenchCase&)>& use);

}  // namespace choir::gpu
