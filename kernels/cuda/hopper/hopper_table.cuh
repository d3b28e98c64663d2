// The table of the Hopper rung for one runner, over the table of the rung below.
#pragma once

#include "kernels/cuda/hopper/experts.cuh"
#include "kernels/cuda/hopper/grouped_gemm.cuh"
#include "kernels/cuda/hopper/linear.cuh"
#include "kernels/cuda/hopper/mla_attention.cuh"
#include "kernels/cuda/kernel_table.h"

namespace choir::cuda {

// What takes the shapes that the fast kernels do not cover, and nothing else: which kernel computes
// follows from shapes and their alignment, never from what a driver answers, so that the table's
// name tells the bits.
template <class Runner>
KernelTable& RungBelow() {
  static KernelTable below;
  return below;
}

template <class Runner>
void LinearOrBelow(const LinearArgs& a, const KernelStream& s) {
  if (!HopperLinear({&a, 1}, Runner(s))) RungBelow<Runner>().linear(a, s);
}

// Replaces ops of a table of the tensor rung.
template <class Runner>
void FillHopper(KernelTable* t) {
  using S = const KernelStream&;
  RungBelow<Runner>() = *t;
  t->order_of_rows = HopperOrderOfRows;
  t->linear = LinearOrBelow<Runner>;
  t->merged_linear = [](const MergedLinearArgs& a, S s) {
    if (HopperLinear(a.parts, Runner(s))) return;
    for (const LinearArgs& part : a.parts) LinearOrBelow<Runner>(part, s);
  };
  t->grouped_gemm = [](const GroupedGemmArgs& a, S s) {
    if (!HopperGroupedGemm(a, Runner(s))) RungBelow<Runner>().grouped_gemm(a, s);
  };
  t->expert_ffn = [](const ExpertFfnArgs& a, S s) {
    if (HopperExpertFfn(a, Runner(s))) return;
    CHOIR_CHECK(a.x_order == RowOrder::kPlain);
    RungBelow<Runner>().expert_ffn(a, s);
  };
  t->mla_attention = [](const MlaAttentionArgs& a, S s) {
    if (!HopperMlaAttention<Runner>(a, s)) RungBelow<Runner>().mla_attention(a, s);
  };
}

}  // namespace choir::cuda
