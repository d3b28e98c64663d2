#include "tools/model/expert_split.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "tools/model/split_mix.h"

namespace choir {
namespace {

constexpr uint64_t kSeed = 20241009;

// Biases that even out the load over the copies, in units of 1/1024, for layers 1..29. Fitted on
// about 1,900 tokens of text with the dense model; only the load depends on them, never the output.
constexpr int16_t kBalance[kLastBalancedLayer][ExpertSplit::kCopies] = {
    {-31, 116, -23, -61},   {-70, 77, 61, -68},    {79, 13, -43, -49},     {-36, -27, 37, 26},
    {78, -84, -9, 14},      {43, -36, 54, -61},    {-76, 98, 28, -51},     {-122, 47, -161, 236},
    {-117, 201, 13, -98},   {-104, -52, 181, -26}, {109, 233, -183, -159}, {94, -140, 166, -120},
    {208, 129, -188, -149}, {81, 102, 30, -213},   {122, 94, -157, -59},   {166, -64, 20, -121},
    {-110, 44, -193, 260},  {-246, 7, 70, 169},    {83, 187, -151, -120},  {151, -34, -193, 75},
    {171, -274, -167, 270}, {-191, 59, 57, 76},    {-88, -19, 165, -58},   {34, -124, 77, 14},
    {-60, 92, 163, -195},   {79, -216, 127, 11},   {182, -41, -160, 19},   {19, 404, -269, -155},
    {315, 319, -323, -310},
};

// Evenly spaced from 0.1875 to -0.1875, the ends exact.
std::vector<double> Offsets(int32_t count) {
  constexpr double kEnd = 0.1875;
  const double step = -2 * kEnd / (count - 1);
  std::vector<double> offsets(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) offsets[static_cast<size_t>(i)] = i * step + kEnd;
  offsets.back() = -kEnd;
  return offsets;
}

}  // namespace

LayerSplit SplitLayer(const ExpertSplit& split, int32_t layer, std::span<const bf16> norm) {
  CHOIR_CHECK(layer >= 1 && layer <= kLastBalancedLayer);
  CHOIR_CHECK(norm.size() == static_cast<size_t>(split.hidden));
  const auto width = static_cast<size_t>(split.width());
  const auto hidden = static_cast<size_t>(split.hidden);

  SplitMix64 random(kSeed * 1000 + static_cast<uint64_t>(layer));
  double squares = 0;
  for (const bf16 w : norm) squares += static_cast<double>(ToF32(w)) * ToF32(w);
  const double scale = 2.0 / std::sqrt(squares);  // gives the router logits a spread of about 1

  LayerSplit out;
  const std::vector<int32_t> neurons = random.Permutation(split.ffn);
  const auto num_shared = static_cast<size_t>(ExpertSplit::kSharedParts) * width;
  out.shared.assign(neurons.begin(), neurons.begin() + static_cast<ptrdiff_t>(num_shared));
  out.experts.resize(static_cast<size_t>(split.experts()));
  out.gate.resize(out.experts.size() * hidden);

  for (int32_t copy = 0; copy < ExpertSplit::kCopies; ++copy) {
    const std::vector<int32_t> order =
        random.Permutation(split.ffn - static_cast<int32_t>(num_shared));
    std::vector<bf16> row(hidden);
    for (bf16& w : row) w = ToBF16(static_cast<float>(random.Sign() * scale));
    for (int32_t slice = 0; slice < ExpertSplit::kSlices; ++slice) {
      const auto expert = static_cast<size_t>(split.Expert(copy, slice));
      std::copy(row.begin(), row.end(), out.gate.begin() + static_cast<ptrdiff_t>(expert * hidden));
      for (size_t i = 0; i < width; ++i) {
        const auto place = static_cast<size_t>(order[static_cast<size_t>(slice) * width + i]);
        out.experts[expert].push_back(neurons[num_shared + place]);
      }
    }
  }

  const std::vector<double> offsets = Offsets(split.group_size());
  for (int32_t group = 0; group < split.groups(); ++group) {
    for (const int32_t i : random.Permutation(split.group_size())) {
      out.bias.push_back(static_cast<float>(offsets[static_cast<size_t>(i)]));
    }
  }
  for (int32_t copy = 0; copy < ExpertSplit::kCopies; ++copy) {
    for (int32_t slice = 0; slice < ExpertSplit::kSlices; ++slice) {
      out.bias[static_cast<size_t>(split.Expert(copy, slice))] +=
          static_cast<float>(kBalance[layer - 1][copy]) / 1024;
    }
  }
  return out;
}

}  // namespace choir
