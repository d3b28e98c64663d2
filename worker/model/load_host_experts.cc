#include "worker/model/load_host_experts.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "common/base/log.h"
#include "worker/device/host_memory.h"
#include "worker/model/expert_counts.h"
#include "worker/model/weights/bind_weights.h"
#include "worker/model/weights/device_weights.h"

namespace choir {
namespace {

std::string CountText(int64_t count) {
  return count == HostExpertOptions::kWhatDoesNotFit ? "auto" : std::to_string(count);
}

HostExperts Coldest(const LoadOptions& options, const LoadedParts& parts, int64_t count,
                    const ExpertRows& rows) {
  return ChooseHostExperts(parts.config, options.num_ranks, count, rows);
}

// The fewest of each layer that have to go for the rest to fit; all, if that is too much still.
int64_t FewestThatFit(const LoadOptions& options, const LoadedParts& parts, const ExpertRows& rows,
                      size_t beside, uint64_t room) {
  int64_t fewest = 0, most = parts.own.end - parts.own.begin;
  while (fewest < most) {
    const int64_t count = fewest + (most - fewest) / 2;
    const HostExperts host = Coldest(options, parts, count, rows);
    if (DeviceBytesWithout(host, parts) + beside <= room) {
      most = count;
    } else {
      fewest = count + 1;
    }
  }
  return fewest;
}

}  // namespace

Status CheckHostExperts(const LoadOptions& options, const LoadedParts& parts) {
  const HostExpertOptions& o = options.host_experts;
  const std::string count = CountText(o.count);
  if (o.count == 0) return {};
  if (options.device->ReadsHostMemory()) {
    return InvalidArgument(
        "cpu_experts {} (--cpu-experts): the CPU computes all experts here; leave it out, or give "
        "--device cuda",
        count);
  }
  if (options.redundant_experts > 0) {
    return InvalidArgument(
        "cpu_experts {} (--cpu-experts): experts that move would have other bits on the CPU; leave "
        "out redundant_experts (--redundant-experts)",
        count);
  }
  if (!parts.config.moe) {
    return InvalidArgument("cpu_experts {} (--cpu-experts): {} has no experts; leave it out", count,
                           options.model_dir);
  }
  const int64_t share =
      ExpertSlots(static_cast<int32_t>(parts.config.moe->experts), options.num_ranks, 0);
  if (o.count > share) {
    return InvalidArgument(
        "cpu_experts {} (--cpu-experts): of the {} experts of a layer a rank of {} holds {}; give "
        "0 to {}, or auto",
        count, parts.config.moe->experts, options.num_ranks, share, share);
  }
  CHOIR_CHECK(o.count >= HostExpertOptions::kWhatDoesNotFit && o.kernels != nullptr);
  return {};
}

StatusOr<bool> WantsHostExperts(const LoadOptions& options, const LoadedParts& parts,
                                size_t beside) {
  if (options.host_experts.count != HostExpertOptions::kWhatDoesNotFit) {
    return options.host_experts.count != 0;
  }
  CHOIR_ASSIGN_OR_RETURN(const uint64_t room, options.device->Room());
  const bool all_fit = DeviceBytesOf(parts.weights) + beside <= room;
  if (all_fit) CHOIR_LOG(info, "cpu_experts auto: all experts fit {}", options.device->Name());
  return !all_fit;
}

Status ChooseHostExperts(const LoadOptions& options, size_t beside, LoadedParts* parts) {
  const HostExpertOptions& o = options.host_experts;
  CHOIR_ASSIGN_OR_RETURN(const ExpertRows rows, ReadExpertCounts(o.hotness, parts->config));
  int64_t count = o.count;
  if (count == HostExpertOptions::kWhatDoesNotFit) {
    CHOIR_ASSIGN_OR_RETURN(const uint64_t room, options.device->Room());
    count = FewestThatFit(options, *parts, rows, beside, room);
  }
  parts->host = Coldest(options, *parts, count, rows);
  CHOIR_LOG(info,
            "of the {} experts of each layer here the CPU computes {} (cpu_experts {}): {}; "
            "placement {}",
            parts->own.end - parts->own.begin, count, CountText(o.count),
            o.hotness.empty() ? "the last ones" : "those with fewest rows", parts->host.Digest());
  return {};
}

size_t DeviceBytesWithout(const HostExperts& host, const LoadedParts& parts) {
  if (host.empty()) return DeviceBytesOf(parts.weights);
  ModelWeights weights = parts.weights;
  ForgetOtherExperts(parts.own, host, &weights);
  return DeviceBytesOf(weights);
}

StatusOr<std::vector<HostExpert>> BindHostExperts(const LoadOptions& options, LoadedParts* parts) {
  std::vector<HostExpert> bound;
  if (parts->host.empty()) return bound;
  const WeightNames& names = *FindFamily(parts->config.family)->names;
  const auto& files = parts->store->shared_files();
  auto host = std::make_unique<WeightStore>(files, parts->store->matrix_dtype());
  auto device = std::make_unique<WeightStore>(files, parts->store->matrix_dtype());
  for (size_t l = 0; l < parts->weights.layers.size(); ++l) {
    for (int64_t e = parts->own.begin; e < parts->own.end; ++e) {
      if (!parts->host.Has(l, e)) continue;
      bound.push_back(
          {l, e, BindExpert(parts->config, names, static_cast<int64_t>(l), e, host.get())});
    }
  }
  CHOIR_RETURN_IF_ERROR(host->status());
  CHOIR_RETURN_IF_ERROR(
      CheckHostRoom(options.host_experts.count, host->kept_bytes(), HostMemoryBytes()));
  parts->weights = BindWeights(parts->config, names, parts->own, device.get(), parts->host);
  CHOIR_RETURN_IF_ERROR(device->status());
  ForgetOtherExperts(parts->own, parts->host, &parts->weights);
  parts->store = std::move(device);
  parts->host_store = std::move(host);
  return bound;
}

Status LoadHostExperts(const std::vector<HostExpert>& host,
                       const std::function<void(int64_t done, int64_t total)>& progress,
                       LoadedParts* parts) {
  if (parts->host_store == nullptr) return {};
  CHOIR_RETURN_IF_ERROR(parts->host_store->Load(progress));
  for (const HostExpert& h : host) {
    parts->weights.layers[h.layer].moe->experts[static_cast<size_t>(h.expert)] = h.weights;
  }
  return {};
}

}  // namespace choir
