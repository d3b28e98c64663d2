// GateTopK: scores by the path's vector functions, choice in plain code (a few hundred values a
// token).
#include <array>
#include <limits>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/work.h"

namespace choir::cpu {
namespace {

using Row = std::array<float, kGateExpertsMax>;
using Marks = std::array<bool, kGateExpertsMax>;

// Marks the `count` greatest values; ties take the lower index. Any values, NaN too, mark `count`.
void MarkGreatest(const float* values, int64_t size, int64_t count, Marks& marked) {
  std::fill_n(marked.begin(), size, false);
  for (int64_t k = 0; k < count; ++k) {
    int64_t best = -1;
    for (int64_t i = 0; i < size; ++i) {
      if (marked[static_cast<size_t>(i)]) continue;
      if (best < 0 || values[i] > values[best]) best = i;
    }
    marked[static_cast<size_t>(best)] = true;
  }
}

float GroupValue(const float* members, int64_t size, GroupScore kind) {
  float best = -std::numeric_limits<float>::infinity();
  float second = best;
  for (int64_t i = 0; i < size; ++i) {
    if (members[i] > best) {
      second = best;
      best = members[i];
    } else if (members[i] > second) {
      second = members[i];
    }
  }
  return kind == GroupScore::kSumOfBestTwo && size > 1 ? best + second : best;
}

// Takes the experts of all groups but the kept ones out of the choice.
void RefuseGroups(const GateTopKArgs& a, int64_t experts, Row& choice, Row& scores) {
  const int64_t size = experts / a.num_groups;
  Row values;
  for (int64_t g = 0; g < a.num_groups; ++g) {
    values[static_cast<size_t>(g)] = GroupValue(choice.data() + g * size, size, a.group_score);
  }
  Marks kept;
  MarkGreatest(values.data(), a.num_groups, a.groups_kept, kept);
  for (int64_t e = 0; e < experts; ++e) {
    if (kept[static_cast<size_t>(e / size)]) continue;
    const auto i = static_cast<size_t>(e);
    choice[i] = a.masked_score_is_zero ? 0.0f : -std::numeric_limits<float>::infinity();
    if (a.masked_score_is_zero) scores[i] = 0.0f;
  }
}

void Softmax(const Micro& micro, float* x, int64_t count) {
  const float inverse = micro.softmax(x, count, 1.0f, nullptr);
  for (int64_t i = 0; i < count; ++i) x[i] *= inverse;
}

void GateToken(const Micro& micro, const GateTopKArgs& a, int64_t token) {
  const int64_t experts = a.logits.dim(1);
  const int64_t top_k = a.expert_ids.dim(1);
  Row scores;
  std::copy_n(a.logits.f32() + token * experts, experts, scores.begin());
  if (a.score == GateScore::kSigmoid) micro.sigmoid(scores.data(), experts);
  if (a.score == GateScore::kSoftmax) Softmax(micro, scores.data(), experts);
  Row choice;
  for (int64_t e = 0; e < experts; ++e) {
    const auto i = static_cast<size_t>(e);
    choice[i] = a.bias.empty() ? scores[i] : scores[i] + a.bias.f32()[e];
  }
  if (a.groups_kept < a.num_groups) RefuseGroups(a, experts, choice, scores);
  Marks chosen;
  MarkGreatest(choice.data(), experts, top_k, chosen);

  int32_t* ids = a.expert_ids.data<int32_t>() + token * top_k;
  float* weights = a.weights.f32() + token * top_k;
  int64_t k = 0;
  for (int64_t e = 0; e < experts; ++e) {
    if (!chosen[static_cast<size_t>(e)]) continue;
    ids[k] = static_cast<int32_t>(e);
    weights[k++] = scores[static_cast<size_t>(e)];
  }
  if (a.score == GateScore::kSoftmaxOfChosen) Softmax(micro, weights, top_k);
  float sum = 0.0f;
  for (k = 0; k < top_k; ++k) sum += weights[k];
  const float factor = a.normalize ? a.scaling / (sum + 1e-20f) : a.scaling;
  for (k = 0; k < top_k; ++k) weights[k] *= factor;
}

}  // namespace

void CpuKernels::GateTopK(const GateTopKArgs& a, const Stream& stream) const {
  const int64_t experts = a.logits.dim(1);
  const int64_t top_k = a.expert_ids.dim(1);
  CHOIR_CHECK(experts <= kGateExpertsMax && top_k > 0 && top_k <= experts);
  CHOIR_CHECK(a.num_groups > 0 && experts % a.num_groups == 0);
  CHOIR_CHECK(a.groups_kept > 0 && a.groups_kept <= a.num_groups);
  CHOIR_CHECK(a.bias.empty() || a.bias.dtype() == DType::kF32);
  ForRanges(stream, a.logits.dim(0), experts * (top_k + 2), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) GateToken(micro_, a, t);
  });
}

}  // namespace choir::cpu
