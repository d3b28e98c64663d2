// A loaded model without weights: one latent of width one a token. For benches of everything around
// a model. Immutable; any thread.
#pragma once

#include <string>
#include <utility>

#include "worker/model/model.h"

namespace choir::bench {

class WeightlessModel final : public LoadedModel {
 public:
  // `name` is its family and its numerics id.
  WeightlessModel(std::string name, int64_t vocab, int64_t context_length)
      : name_(std::move(name)) {
    info_.family = name_;
    info_.vocab = vocab;
    info_.hidden = 1;
    info_.layers = 1;
    info_.context_length = context_length;
  }
  const ModelInfo& info() const override { return info_; }
  KvLayout kv_layout() const override {
    KvLayout layout;
    layout.layers = {{LayerKv::Kind::kLatent, 1, 0, 0}};
    return layout;
  }
  Compute compute() const override { return Compute::kF32; }
  const std::string& numerics_id() const override { return name_; }

 private:
  const std::string name_;
  ModelInfo info_;
};

}  // namespace choir::bench
