// Experts that the host computes, because the device has no room for them (docs/decisions/0040).
// Which ones is a function of the model, the number of ranks and the options, equal on all ranks:
// it is part of the numerics id, for the two do not round alike. Private to worker/model but for
// the options.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "kernels/kernels.h"
#include "worker/comm/expert_placement.h"
#include "worker/model/config/model_config.h"

namespace choir {

struct HostExpertOptions {
  static constexpr int64_t kWhatDoesNotFit = -1;
  int64_t count = 0;                   // of each layer and rank
  std::vector<std::string> hotness;    // files (expert_counts.h): the busiest are the device's
  const KernelSet* kernels = nullptr;  // the host's; outlives the model; needed unless count is 0
};

// By layer of the model and expert.
class HostExperts {
 public:
  bool empty() const { return layers_.empty(); }
  bool Has(size_t layer, int64_t expert) const {
    const std::vector<bool>* experts = Of(layer);
    return experts != nullptr && (*experts)[static_cast<size_t>(expert)];
  }
  // Null: the layer has none.
  const std::vector<bool>* Of(size_t layer) const {
    return layer < layers_.size() && !layers_[layer].empty() ? &layers_[layer] : nullptr;
  }
  void Add(size_t layer, int64_t expert, const ModelConfig& config);
  // For the numerics id; does not depend on which rank holds what.
  std::string Digest() const;

 private:
  std::vector<std::vector<bool>> layers_;  // without experts: empty
};

// rows: what ReadExpertCounts gave. Of each rank's range the `count` experts with fewest rows; of
// equal ones the last.
HostExperts ChooseHostExperts(const ModelConfig& config, int num_ranks, int64_t count,
                              const std::vector<std::vector<uint64_t>>& rows);

// The same experts on the same ranks, on each those of the device before those of the host.
ExpertPlacement DeviceFirst(const ExpertPlacement& placement, size_t layer,
                            const HostExperts& host);

// ResourceExhausted: the weights of the host's experts are more than its memory.
Status CheckHostRoom(int64_t count, int64_t weight_bytes, uint64_t memory_bytes);

}  // namespace choir
