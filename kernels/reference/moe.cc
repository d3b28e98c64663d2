#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/reference/gpu_ops.h"
#include "kernels/reference/reference_kernels.h"

namespace choir::reference {
namespace {

// Indices of the `count` greatest values, ascending by index; ties take the lower index.
std::vector<int64_t> TopIndices(const std::vector<double>& values, int64_t count) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<double> Scores(const float* logits, int64_t count, GateScore kind) {
  std::vector<double> scores(logits, logits + count);
  if (kind == GateScore::kSigmoid) {
    for (double& s : scores) s = 1.0 / (1.0 + std::exp(-s));
  } else if (kind == GateScore::kSoftmax) {
    const double top = *std::max_element(scores.begin(), scores.end());
    double sum = 0.0;
    for (double& s : scores) sum += s = std::exp(s - top);
    for (double& s : scores) s /= sum;
  }
  return scores;
}

// Which groups of `choice` stay.
std::vector<bool> GroupsKept(const std::vector<double>& choice, const GateTopKArgs& a) {
  const size_t size = choice.size() / static_cast<size_t>(a.num_groups);
  std::vector<double> group_scores;
  for (size_t g = 0; g < static_cast<size_t>(a.num_groups); ++g) {
    std::vector<double> members(choice.begin() + static_cast<int64_t>(g * size),
                                choice.begin() + static_cast<int64_t>((g + 1) * size));
    std::sort(members.begin(), members.end(), std::greater<>());
    const bool two = a.group_score == GroupScore::kSumOfBestTwo && size > 1;
    group_scores.push_back(two ? members[0] + members[1] : members[0]);
  }
  std::vector<bool> kept(group_scores.size(), false);
  for (const int64_t g : TopIndices(group_scores, a.groups_kept))
    kept[static_cast<size_t>(g)] = true;
  return kept;
}

double ApplyGlu(const Glu& glu, double gate, double up) {
  if (glu.kind == Glu::Kind::kSilu) return Silu(gate) * up;
  const double limit = glu.limit;
  gate = std::min(gate, limit);
  up = std::clamp(up, -limit, limit);
  return (up + 1) * gate / (1 + std::exp(-glu.alpha * gate));
}

// Σ_i x[i] · w[output, i] + bias, whichever way the matrix lies.
struct ExpertProduct {
  const TensorView& w;
  const TensorView& scale;
  const TensorView& bias;
  bool input_major;

  double At(const std::vector<double>& x, int64_t output) const {
    double sum = bias.empty() ? 0.0 : reference::At(bias, output);
    const int64_t width = w.dim(input_major ? 0 : 1);
    for (int64_t i = 0; i < width; ++i) {
      sum += x[static_cast<size_t>(i)] *
             (input_major ? WeightAt(w, scale, i, output) : WeightAt(w, scale, output, i));
    }
    return sum;
  }
};

// A row as f8 and back.
std::vector<double> ThroughF8(float* row, int64_t width) {
  const int64_t blocks = (width + kF8Block - 1) / kF8Block;
  std::vector<uint8_t> codes(static_cast<size_t>(width));
  std::vector<float> scales(static_cast<size_t>(blocks));
  QuantizeF8({.x = TensorView(row, DType::kF32, {1, width}),
              .y = TensorView(codes.data(), DType::kF8E4M3, {1, width}),
              .y_scale = TensorView(scales.data(), DType::kF32, {1, blocks})});
  std::vector<double> values;
  for (const uint8_t code : codes) {
    const float scale = scales[values.size() / kF8Block];
    values.push_back(static_cast<double>(F8ToF32(code)) * scale);
  }
  return values;
}

// What the first products see of row r.
std::vector<double> RowOf(const ExpertFfnArgs& a, int64_t r) {
  std::vector<double> values;
  for (int64_t i = 0; i < a.x.dim(1); ++i) {
    if (a.has_f8_rows()) {
      const float scale = a.x_scale.f32()[r * a.x_scale_pitch() + i / kF8Block];
      const uint8_t code = a.x.data<uint8_t>()[r * a.x_pitch() + i];
      values.push_back(static_cast<double>(F8ToF32(code)) * scale);
    } else {
      values.push_back(Operand(At(a.x, r * a.x.dim(1) + i), a.compute));
    }
  }
  return values;
}

// The same of the last one, of what glu gave.
std::vector<double> InnerRowOf(const ExpertFfnArgs& a, int64_t r) {
  const int64_t inner = a.scratch.dim(1);
  float* row = a.scratch.f32() + r * inner;
  if (a.has_f8_rows()) return ThroughF8(row, inner);
  std::vector<double> values;
  for (int64_t f = 0; f < inner; ++f) values.push_back(Operand(row[f], a.compute));
  return values;
}

}  // namespace

void ReferenceKernels::GateTopK(const GateTopKArgs& a, const Stream&) const {
  const int64_t experts = a.logits.dim(1);
  const int64_t top_k = a.expert_ids.dim(1);
  CHOIR_CHECK(top_k <= experts && experts % a.num_groups == 0 && a.groups_kept <= a.num_groups);
  for (int64_t t = 0; t < a.logits.dim(0); ++t) {
    std::vector<double> scores = Scores(a.logits.f32() + t * experts, experts, a.score);
    std::vector<double> choice = scores;
    if (!a.bias.empty()) {
      for (int64_t e = 0; e < experts; ++e) choice[static_cast<size_t>(e)] += At(a.bias, e);
    }
    if (a.groups_kept < a.num_groups) {
      const std::vector<bool> kept = GroupsKept(choice, a);
      const size_t size = choice.size() / kept.size();
      for (size_t e = 0; e < choice.size(); ++e) {
        if (kept[e / size]) continue;
        choice[e] = a.masked_score_is_zero ? 0.0 : -std::numeric_limits<double>::infinity();
        if (a.masked_score_is_zero) scores[e] = 0.0;
      }
    }
    const std::vector<int64_t> chosen = TopIndices(choice, top_k);
    std::vector<double> weights;
    for (const int64_t e : chosen) weights.push_back(scores[static_cast<size_t>(e)]);
    if (a.score == GateScore::kSoftmaxOfChosen) {
      const std::vector<float> logits(weights.begin(), weights.end());
      weights = Scores(logits.data(), top_k, GateScore::kSoftmax);
    }
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (int64_t k = 0; k < top_k; ++k) {
      const double w = weights[static_cast<size_t>(k)] / (a.normalize ? sum + 1e-20 : 1.0);
      a.weights.f32()[t * top_k + k] = static_cast<float>(w * a.scaling);
      a.expert_ids.data<int32_t>()[t * top_k + k] =
          static_cast<int32_t>(chosen[static_cast<size_t>(k)]);
    }
  }
}

void ReferenceKernels::ExpertFfn(const ExpertFfnArgs& a, const Stream&) const {
  const int64_t hidden = a.x.dim(1);
  const int64_t inner = a.scratch.dim(1);
  CheckExpertFfn(a);
  for (size_t e = 0; e < a.experts.size(); ++e) {
    const ExpertWeights& w = a.experts[e];
    const bool fused = w.up.empty();
    const TensorView none;
    const ExpertProduct gate{w.gate, w.gate_scale, w.gate_bias, a.input_major};
    const ExpertProduct up{fused ? w.gate : w.up, fused ? w.gate_scale : w.up_scale,
                           fused ? w.gate_bias : none, a.input_major};
    const ExpertProduct down{w.down, w.down_scale, w.down_bias, a.input_major};
    for (int64_t r = a.offsets[e]; r < a.offsets[e + 1]; ++r) {
      const std::vector<double> x = RowOf(a, r);
      for (int64_t f = 0; f < inner; ++f) {
        const double g = gate.At(x, fused ? 2 * f : f);
        const double u = up.At(x, fused ? 2 * f + 1 : f);
        a.scratch.f32()[r * inner + f] = static_cast<float>(ApplyGlu(a.glu, g, u));
      }
      const std::vector<double> h = InnerRowOf(a, r);
      for (int64_t i = 0; i < hidden; ++i) {
        a.y.f32()[r * hidden + i] = static_cast<float>(down.At(h, i));
      }
    }
  }
}

void ReferenceKernels::Combine(const CombineArgs& a, const Stream&) const {
  const int64_t width = a.out.dim(1);
  const int64_t top_k = a.weights.dim(1);
  for (int64_t t = 0; t < a.out.dim(0); ++t) {
    for (int64_t i = 0; i < width; ++i) {
      double sum = 0.0;
      for (int64_t k = 0; k < top_k; ++k) {
        sum += static_cast<double>(a.weights.f32()[t * top_k + k]) *
               a.y.f32()[(t * top_k + k) * width + i];
      }
      float& out = a.out.f32()[t * width + i];
      out = static_cast<float>(a.accumulate ? out + sum : sum);
    }
  }
}

}  // namespace choir::reference
