// mla_attention (absorbed) on Hopper, decode and prefill alike.
// Shapes   kernels/ops/attention.h with latents in bf16 of 512 + 64 columns, heads a multiple of
//          64, scale > 0. Anything else is left to the tensor rung.
// Bound    a latent is 1,152 bytes and, with 128 heads, 278,528 flops: 242 a byte, on an H200 0.24
//          ns by memory (4.8 TB/s) and 0.28 ns by dense BF16 (989 TFLOPS).
// Plan     a block 64 heads of a row, tiles of 64 keys (mla_tile.cuh); of 128 heads the second
//          block finds the latents in the L2. Queries stay in shared memory, two tiles of
//          keys are there, which are values as well: by an operand with K across its lines. One
//          warpgroup loads, by copies of 16 bytes: pages of any size, and zeros behind the last
//          key, which the copy engine cannot give within a page. Squares of 64 keys x 64 columns
//          are awaited one by one, and given back in three parts.
//          Chunks, parts and their fold are those of tensor/attention.cuh.
// Counted  not run: a tile is 8.9 MFLOP, 2,176 clocks of tensor cores; of shared memory 1,152 for
//          scores (operands of 64 x 64 on both sides), 576 for values and shares, 576 for copies;
//          of memory 1,855. So 80 % of the memory bound at most. docs/decisions/0041.
// Oracle   kernels/reference/attention.cc; tests/contract/kernels/hopper_mla_test.cc.
#pragma once

#include "kernels/cuda/hopper/mla_tile.cuh"
#include "kernels/cuda/tensor/attention.cuh"

namespace choir::cuda {

// How AttendAll computes chunks.
struct MlaTiles {
  static AttendPlan Plan(AttendProblem* a, const AttendBounds& bounds, const CardLimits& card,
                         size_t part_bytes) {
    SetTile(a, kMlaQueries);
    AttendPlan plan;
    plan.sizes.queries = kMlaQueries;
    plan.parts_at_once = PartsAtOnce(*a, kMlaQueries, bounds, {card, part_bytes});
    return plan;
  }
  static void Run(const AttendProblem& a, const AttendParts& parts, const AttendPlan&,
                  const auto& run) {
    run({.x = TilesOf(a),
         .y = std::max(1, parts.count),
         .threads = kMlaThreads,
         .shared_bytes = MlaMemory::kBytes},
        MlaTileKernel{a, parts});
  }
  CHOIR_DEVICE static float Mean(float values, float sum) { return values * MlaInverse(sum); }
};

inline bool IsCovered(const MlaAttentionArgs& a) {
  return a.latent.data.dtype() == DType::kBF16 && a.q_latent.dim(2) == kMlaLora &&
         a.q_rope.dim(2) == kMlaRope && a.q_latent.dim(1) % kMlaQueries == 0 && a.scale > 0.0f;
}

// False: its shapes are not covered, and nothing was done. Compute capability 9.0 has the shared
// memory for it.
template <class Runner>
bool HopperMlaAttention(const MlaAttentionArgs& args, const KernelStream& stream) {
  if (!IsCovered(args)) return false;
  AttendAll<Runner, MlaTiles>(ProblemOf(args), args.sequences, args.keys_max, stream);
  return true;
}

}  // namespace choir::cuda
