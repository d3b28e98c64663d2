#include "worker/model/host_experts.h"

#include <algorithm>

#include "common/base/sha256.h"

namespace choir {

void HostExperts::Add(size_t layer, int64_t expert, const ModelConfig& config) {
  layers_.resize(static_cast<size_t>(config.layers));
  layers_[layer].resize(static_cast<size_t>(config.moe->experts));
  layers_[layer][static_cast<size_t>(expert)] = true;
}

std::string HostExperts::Digest() const {
  Sha256 hash;
  for (size_t l = 0; l < layers_.size(); ++l) {
    for (size_t e = 0; e < layers_[l].size(); ++e) {
      if (layers_[l][e]) hash.Update(fmt::format("{} {}\n", l, e));
    }
  }
  return ToHex(hash.Finish());
}

HostExperts ChooseHostExperts(const ModelConfig& config, int num_ranks, int64_t count,
                              const std::vector<std::vector<uint64_t>>& rows) {
  HostExperts host;
  if (!config.moe) return host;
  const ExpertPlacement placement(static_cast<int32_t>(config.moe->experts), num_ranks);
  for (size_t l = 0; l < rows.size(); ++l) {
    if (rows[l].empty()) continue;
    for (int32_t r = 0; r < num_ranks; ++r) {
      std::vector<int32_t> experts = placement.ExpertsOf(r);
      std::reverse(experts.begin(), experts.end());
      std::stable_sort(experts.begin(), experts.end(), [&](int32_t a, int32_t b) {
        return rows[l][static_cast<size_t>(a)] < rows[l][static_cast<size_t>(b)];
      });
      experts.resize(static_cast<size_t>(std::min<int64_t>(count, std::ssize(experts))));
      for (const int32_t e : experts) host.Add(l, e, config);
    }
  }
  return host;
}

ExpertPlacement DeviceFirst(const ExpertPlacement& placement, size_t layer,
                            const HostExperts& host) {
  std::vector<std::vector<int32_t>> experts_of;
  for (int32_t r = 0; r < placement.num_ranks(); ++r) {
    std::vector<int32_t>& experts = experts_of.emplace_back(placement.ExpertsOf(r));
    std::stable_partition(experts.begin(), experts.end(),
                          [&](int32_t e) { return !host.Has(layer, e); });
  }
  return ExpertPlacement(placement.num_experts(), std::move(experts_of));
}

Status CheckHostRoom(int64_t count, int64_t weight_bytes, uint64_t memory_bytes) {
  if (static_cast<uint64_t>(weight_bytes) <= memory_bytes) return {};
  return ResourceExhausted(
      "cpu_experts {} (--cpu-experts): the weights of these experts are {} bytes, the memory of "
      "this machine, or of the cgroup of this process, is {}; give fewer, or the group more ranks",
      count, weight_bytes, memory_bytes);
}

}  // namespace choir
