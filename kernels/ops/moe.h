// Mixture of experts: gate, the experts of one layer as one op, combine.
#pragma once

#include <cstdint>

#include "common/tensor/tensor_view.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/staged.h"

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
  // On a device, or null: rows from this one on are padding and choose no expert: ids of -1.
  const int32_t* num_rows = nullptr;
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
//
// Rows in f8: gate, up and down are products of f8 by f8 as GroupedGemm's (grouped_gemm.h); what
// glu gives in FP32 becomes f8 as QuantizeF8 does it. Weights are in f8, neither fused nor
// input-major, without biases.
struct ExpertFfnArgs {
  TensorView x;        // [R, H] f32; with Compute::kBF16 also bf16 or, with x_scale, f8
  TensorView x_scale;  // [R, ceil(H / 128)] f32: a value is x · its scale; empty: x is not f8
  // [E_local + 1], ascending, last == R. Where only a device knows them R is the most there can be,
  // last <= R; rows from there on are nobody's, and y may hold anything there afterwards.
  Staged<int32_t> offsets;
  Staged<ExpertWeights> experts;  // [E_local]; the host's side is always there
  TensorView y;                   // [R, H] f32
  TensorView scratch;             // [R, F] f32: what glu gave
  Compute compute = Compute::kF32;
  Glu glu;
  // Matrices lie as [in, out]: gate [H, 2F] fused, down [F, H]; f32, bf16 or f16.
  bool input_major = false;
  // Of x in f8: elements between rows, 0: H; and floats between rows of x_scale, 0: its width. Of
  // the two views only the dims count then, not what lies between rows.
  int64_t x_stride = 0;
  int64_t x_scale_stride = 0;
  RowOrder x_order = RowOrder::kPlain;  // of x in bf16: another one only if OrderOfRows says so

  bool has_f8_rows() const { return x.dtype() == DType::kF8E4M3; }
  int64_t x_pitch() const { return x_stride != 0 ? x_stride : x.dim(1); }
  int64_t x_scale_pitch() const { return x_scale_stride != 0 ? x_scale_stride : x_scale.dim(1); }
  int64_t Flops() const { return 6 * x.dim(0) * scratch.dim(1) * x.dim(1); }
  int64_t Bytes() const {
    int64_t bytes = static_cast<int64_t>(x.num_bytes() + y.num_bytes());
    if (!x_scale.empty()) bytes += static_cast<int64_t>(x_scale.num_bytes());
    for (size_t e = 0; e < experts.size(); ++e) {
      if (offsets.host != nullptr && offsets[e + 1] == offsets[e]) continue;
      const ExpertWeights& w = experts[e];
      for (const TensorView* t :
           {&w.gate, &w.up, &w.down, &w.gate_scale, &w.up_scale, &w.down_scale}) {
        if (!t->empty()) bytes += static_cast<int64_t>(t->num_bytes());
      }
    }
    return bytes;
  }
};

// What every kernel set that takes rows in f8 begins with.
inline void CheckExpertFfn(const ExpertFfnArgs& a) {
  CHOIR_CHECK(a.offsets.size() == a.experts.size() + 1);
  CHOIR_CHECK(a.offsets.host == nullptr || a.offsets.back() == a.x.dim(0));
  if (!a.has_f8_rows()) {
    CHOIR_CHECK(a.x_scale.empty() && a.x_stride == 0 && a.x_scale_stride == 0);
    return;
  }
  CHOIR_CHECK(a.compute == Compute::kBF16 && !a.input_major);
  CHOIR_CHECK(a.x_pitch() >= a.x.dim(1));
  if (a.x.dim(0) > 0) {
    CHOIR_CHECK(!a.x_scale.empty() && a.x_scale.dim(0) == a.x.dim(0));
    CHOIR_CHECK(a.x_scale.dim(1) == (a.x.dim(1) + kF8Block - 1) / kF8Block);
    CHOIR_CHECK(a.x_scale_pitch() >= a.x_scale.dim(1));
  }
  for (const ExpertWeights& w : a.experts) {
    for (const TensorView* m : {&w.gate, &w.up, &w.down}) {
      CHOIR_CHECK(!m->empty() && m->dtype() == DType::kF8E4M3);
    }
    CHOIR_CHECK(!w.gate_scale.empty() && !w.up_scale.empty() && !w.down_scale.empty());
    CHOIR_CHECK(w.gate_bias.empty() && w.down_bias.empty());
  }
}

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
