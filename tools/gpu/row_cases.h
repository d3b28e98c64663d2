// Cases of ops that move rows and choose: gate and permutations, norms and the like, the sampler.
#pragma once

#include <string>

#include "tools/gpu/case_maker.h"

namespace choir::gpu {

class RowCases : CaseMaker {
 public:
  using CaseMaker::CaseMaker;

  void Routing();
  void Rows(int64_t rows);
  void Sampling(int64_t rows);

 private:
  void GateAnd(const GateTopKArgs& gate, const PermuteArgs& permute, const char* op,
               const std::string& shape, const char* figure);
  void Latents(int64_t rows);
  TensorView Ids(int64_t tokens, int64_t top_k, int64_t experts);
};

}  // namespace choir::gpu
