// The second rung of what chooses experts, moves rows to them and takes tokens: no tensor cores,
// the same table.
#pragma once

#include "kernels/cuda/kernel_table.h"
#include "kernels/cuda/tensor/fast_permute.cuh"
#include "kernels/cuda/tensor/fast_sample.cuh"
#include "kernels/cuda/tensor/warp_gate.cuh"

namespace choir::cuda {

// Replaces the gate, the permutations and the sampler of a table of simple kernels.
template <class Runner>
void FillTensorChoices(KernelTable* t) {
  using S = const KernelStream&;
  t->gate_top_k = [](const GateTopKArgs& a, S s) { WarpGateTopK(a, Runner(s)); };
  t->permute = [](const PermuteArgs& a, S s) { FastPermute(a, Runner(s)); };
  t->unpermute = [](const UnpermuteArgs& a, S s) { FastUnpermute(a, Runner(s)); };
  t->sample = [](const SampleArgs& a, S s) { FastSample(a, Runner(s)); };
}

}  // namespace choir::cuda
