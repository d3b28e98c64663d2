// What LoadModel returns: config, weights and what follows from them.
#pragma once

#include <memory>
#include <string>

#include "worker/device/device.h"
#include "worker/model/config/model_config.h"
#include "worker/model/host_experts.h"
#include "worker/model/model.h"
#include "worker/model/weights/expert_room.h"
#include "worker/model/weights/model_weights.h"
#include "worker/model/weights/numerics_id.h"
#include "worker/model/weights/quantized_weights.h"
#include "worker/model/weights/weight_store.h"

namespace choir {

struct LoadedParts {
  ModelConfig config;
  ModelWeights weights;
  std::unique_ptr<WeightStore> store;  // owns what `weights` view, unless they are on a device
  DeviceBuffer memory;                 // then it is in this
  int64_t weight_bytes = 0;
  Compute compute = Compute::kF32;
  NumericsParts numerics;
  Device* device = &HostDevice();
  ExpertRange own;  // whose weights were loaded
  // Where experts that come later are read from; null: none come.
  std::shared_ptr<const WeightFiles> files;
  std::optional<DType> matrix_dtype;
  std::unique_ptr<ExpertRoom> room;  // for them; null: they are the host's
  HostExperts host;
  const KernelSet* host_kernels = nullptr;  // for them
  std::unique_ptr<WeightStore> host_store;  // of them; null: none
};

class LoadedTransformer final : public LoadedModel {
 public:
  explicit LoadedTransformer(LoadedParts parts);

  const ModelInfo& info() const override { return info_; }
  KvLayout kv_layout() const override;
  Compute compute() const override { return parts_.compute; }
  const std::string& numerics_id() const override { return numerics_id_; }
  Device& device() const override { return *parts_.device; }
  StatusOr<std::shared_ptr<const PlacedExperts>> PlaceExperts(
      std::vector<ExpertPlacement> layers, int32_t rank, const PlacedExperts* before,
      const std::stop_token& stop) const override;

  const ModelConfig& config() const { return parts_.config; }
  const ModelWeights& weights() const { return parts_.weights; }
  // Null: the device computes all experts.
  const KernelSet* host_kernels() const { return parts_.host_kernels; }

 private:
  const LoadedParts parts_;
  const std::string numerics_id_;
  ModelInfo info_;
};

}  // namespace choir
