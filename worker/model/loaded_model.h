// What LoadModel returns: config, weights and what follows from them.
#pragma once

#include <memory>
#include <string>

#include "worker/model/config/model_config.h"
#include "worker/model/model.h"
#include "worker/model/weights/model_weights.h"
#include "worker/model/weights/numerics_id.h"
#include "worker/model/weights/weight_store.h"

namespace choir {

class LoadedTransformer final : public LoadedModel {
 public:
  LoadedTransformer(ModelConfig config, ModelWeights weights, std::unique_ptr<WeightStore> store,
                    Compute compute, NumericsParts numerics);

  const ModelInfo& info() const override { return info_; }
  KvLayout kv_layout() const override;
  Compute compute() const override { return compute_; }
  const std::string& numerics_id() const override { return numerics_id_; }

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }

 private:
  const ModelConfig config_;
  const ModelWeights weights_;
  const std::unique_ptr<WeightStore> store_;  // owns what weights_ views
  const Compute compute_;
  const std::string numerics_id_;
  ModelInfo info_;
};

}  // namespace choir
