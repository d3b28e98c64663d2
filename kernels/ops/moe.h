// Mixture of experts: gate, the experts of one layer as one op, combine.
#pragma once

#include <cstdint>
#include <span>

#include "common/tensor/tensor_view.h"
#include "kernels/ops/linear.h"

namespace choir {

enum class GateScore : uint8_t { kSigmoid, kSoftmax, kSoftmaxOfChosen };
enum class GroupScore : uint8_t { kSumOfBestTwo, kBest };

// A model with more is refused when its config is read.
inline constexpr int64_t kGateExpertsMax = 4096;

// Exactly anchors' families.md "Gates": choice by score + bias inside the kept groups, weights from
// the score without the bias. Ties take the lower index. Chosen experts are written in ascending id
// order, which is also the order in which Combine sums.
struct GateTopKArgs {
  TensorView logits;  // [T, E] f32; E at most kGateExpertsMax
  TensorView bias;    // [E] f32, or empty: added for the choice only
  GateScore score = GateScore::kSoftmax;
  int32_t num_groups = 1;
  int32_t groups_kept = 1;
  GroupScore group_score = GroupScore::kBest;
  bool masked_score_is_zero = false;  // deepseek_v2: refused groups count as 0, not as -inf
  bool normalize = false;             // divide by the sum (+ 1e-20)
  float scaling = 1.0f;
  TensorView expert_ids;  // [T, top_k] i32
  TensorView weights;     // [T, top_k] f32
  int64_t Flops() const { return 8 * logits.num_elements(); }
  int64_t Bytes() const { return static_cast<int64_t>(logits.num_bytes()); }
};

// The activation between an expert's matrices.
struct Glu {
  enum class Kind : uint8_t {
    kSilu,     // silu(gate) · up
    kClamped,  // (u + 1) · g · sigmoid(alpha · g); g = min(gate, limit), u = up within ±limit
  } kind = Kind::kSilu;
  float limit = 0.0f, alpha = 0.0f;  // of kClamped
};

// Dtypes and scales as LinearArgs::w, the same for all experts of a call.
struct ExpertWeights {
  TensorView gate, up;  // [F, H]; or fused: gate [2F, H] with gate and up in turn, up empty
  TensorView down;      // [H, F]
  TensorView gate_scale, up_scale, down_scale;
  TensorView gate_bias;  // [2F] f32 or bf16, in turn; only fused, or empty
  TensorView down_bias;  // [H] f32 or bf16, or empty
};

// y[r] = down_e(glu(gate_e(x[r]), up_e(x[r]))) for the rows r of expert e:
// offsets[e] <= r < offsets[e+1]. Each expert's weights are read once for all its rows.
struct ExpertFfnArgs {
  TensorView x;                            // [R, H] f32 or bf16 (bf16 only with Compute::kBF16)
  std::span<const int32_t> offsets;        // [E_local + 1], ascending, last == R
  std::span<const ExpertWeights> experts;  // [E_local]
  TensorView y;                            // [R, H] f32
  TensorView scratch;                      // [R, F] f32: what glu gave
  Compute compute = Compute::kF32;
  Glu glu;
  // Matrices lie as [in, out]: gate [H, 2F] fused, down [F, H]; f32, bf16 or f16.
  bool input_major = false;

  int64_t Flops() const { return 6 * x.dim(0) * scratch.dim(1) * x.dim(1); }
  int64_t Bytes() const {
    int64_t bytes = static_cast<int64_t>(x.num_bytes() + y.num_bytes());
    for (size_t e = 0; e < experts.size(); ++e) {
      if (offsets[e + 1] == offsets[e]) continue;
      const ExpertWeights& w = experts[e];
      for (const TensorView* t :
           {&w.gate, &w.up, &w.down, &w.gate_scale, &w.up_scale, &w.down_scale}) {
        if (!t->empty()) bytes += static_cast<int64_t>(t->num_bytes());
      }
    }
    return bytes;
  }
};

// out[t] (+)= Σ_k weights[t,k] · y[t·top_k + k], k ascending (= ascending expert id), FP32.
struct CombineArgs {
  TensorView y;        // [T * top_k, H] f32
  TensorView weights;  // [T, top_k] f32
  TensorView out;      // [T, H] f32
  bool accumulate = true;
  int64_t Flops() const { return 2 * y.num_elements(); }
  int64_t Bytes() const { return static_cast<int64_t>(y.num_bytes() + out.num_bytes()); }
};

}  // namespace choir
