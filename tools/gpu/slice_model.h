// Layers of DeepSeek-V3's shape on a card, with random weights that no file holds: FP8 in blocks as
// published, and one rank's share of experts.
#pragma once

#include <memory>
#include <vector>

#include "tools/gpu/card.h"
#include "worker/device/device.h"
#include "worker/model/loaded_model.h"

namespace choir::gpu {

struct SliceShape {
  bool small = false;    // for an emulated card
  int64_t layers = 8;    // of which the first is dense
  int64_t experts = 32;  // of 256: a rank's share among 8
};

StatusOr<ModelConfig> SliceConfig(const SliceShape& shape);

// A tensor and what it is to hold.
struct Piece {
  TensorView at;
  Contents contents;
};

// Weights in memory of `device`, which may be a MeasuringDevice. `pieces` gets all of them.
StatusOr<ModelWeights> SliceWeights(const ModelConfig& config, Device* device,
                                    std::vector<Piece>* pieces);

// The first `layers` layers, over the same weights.
std::shared_ptr<const LoadedModel> SliceOf(const ModelConfig& config, const ModelWeights& weights,
                                           int64_t layers, Device* device);

}  // namespace choir::gpu
