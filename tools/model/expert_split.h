// How the demo model's dense feed-forward layers become experts, without changing what they
// compute.
//
// A gated FFN is a sum over its neurons. 4 of 12 parts of the neurons are the shared expert; the
// others are shuffled `copies` times, and every shuffle is cut into 8 slices: each is a routed
// expert, and the 8 slices of one copy add up to the rest of the FFN. All router rows of a copy are
// one vector, so its experts' scores are equal and their normalised weights exactly 1/8; groups
// keep a token to one copy. Offsets in the correction bias, the same set in every group, change
// nothing for a right router, but spoil the output when groups are ignored or the bias leaks into
// the weights. After He et al. 2024, "Upcycling Large Language Models into Mixture of Experts",
// arXiv:2410.07524 (virtual groups).
//
// Deterministic: integers, and floating point whose result does not depend on the machine.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/tensor/dtype.h"

namespace choir {

struct ExpertSplit {
  static constexpr int32_t kSlices = 8;       // experts per token
  static constexpr int32_t kSharedParts = 4;  // of kSlices + kSharedParts parts of the neurons
  static constexpr int32_t kCopies = 4;       // the only number that has balanced biases

  int32_t hidden = 0;
  int32_t ffn = 0;     // REQUIRES: a multiple of 12
  int32_t spread = 2;  // groups that a copy fills: 1, 2 or 4

  int32_t width() const { return ffn / (kSlices + kSharedParts); }
  int32_t experts() const { return kCopies * kSlices; }
  int32_t groups() const { return kCopies * spread; }
  int32_t group_size() const { return kSlices / spread; }
  // Index of slice s of copy c. Groups are numbered slice-major: with contiguous placement the
  // experts of a token lie on several ranks.
  int32_t Expert(int32_t copy, int32_t slice) const {
    return (slice / group_size() * kCopies + copy) * group_size() + slice % group_size();
  }
};

struct LayerSplit {
  std::vector<int32_t> shared;                // neurons of the shared expert
  std::vector<std::vector<int32_t>> experts;  // neurons of each routed expert
  std::vector<bf16> gate;                     // [experts, hidden]
  std::vector<float> bias;                    // [experts]
};

// Layers that have balanced biases: 1..kLastBalancedLayer.
inline constexpr int32_t kLastBalancedLayer = 29;

// `norm` is the weight of the layer's post_attention_layernorm, [hidden].
// REQUIRES: 1 <= layer <= kLastBalancedLayer.
LayerSplit SplitLayer(const ExpertSplit& split, int32_t layer, std::span<const bf16> norm);

}  // namespace choir
