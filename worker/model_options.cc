#include "worker/model_options.h"

#include <algorithm>

#include "common/base/log.h"
#include "worker/expert_options.h"
#include "worker/model/expert_counts.h"

namespace choir {

LoadOptions LoadOptionsOf(const WorkerConfig& config, const Backend& backend) {
  LoadOptions load{.model_dir = config.model_dir,
                   .dtype = config.dtype,
                   .rank = static_cast<int>(config.rank),
                   .num_ranks = static_cast<int>(config.ranks),
                   .weights_digest = config.weights_digest,
                   .cache_dir = config.cache_dir};
  load.device = backend.device();
  load.f8_rows = config.f8_rows;
  load.redundant_experts = static_cast<int32_t>(config.redundant_experts);
  load.host_experts = {.count = CpuExpertsOf(config),
                       .hotness = config.expert_hotness,
                       .kernels = backend.host_kernels.get()};
  return load;
}

EngineOptions EngineOptionsOf(const WorkerConfig& config, RowPath rows) {
  return {.step_tokens = config.step_tokens,
          .sequences_max = std::min(config.sequences_max, config.step_tokens),
          .waiting_max = config.waiting_max,
          .kv_bytes = config.kv_bytes,
          .context_length = config.context_length,
          .prefix_cache = config.prefix_cache,
          .num_threads = static_cast<int>(config.threads),
          .nice = static_cast<int>(config.nice),
          .graph_rows_max = config.cuda_graph_rows,
          .redundant_experts = static_cast<int32_t>(config.redundant_experts),
          .expert_cover = config.expert_cover,
          .placement_steps = config.placement_steps,
          .row_path = rows,
          .slots = SlotOptionsOf(config),
          .micro_batch_rows = config.micro_batch_rows};
}

// As ModelLimits::alone and Transformer::BucketOf have it.
std::string WhyNoGraphs(const WorkerConfig& config, const Device& device, const ModelInfo& info) {
  if (device.ReadsHostMemory() || !device.HasGraphs() || config.cuda_graph_rows == 0) return "";
  if (info.host_experts) {
    return fmt::format("the CPU computes experts (--cpu-experts {})", config.cpu_experts);
  }
  if (info.num_experts == 0 || config.ranks == 1) return "";
  return fmt::format("rows of experts go from rank to rank (--ranks {})", config.ranks);
}

void LeaveExpertCounts(const WorkerConfig& config, const ExpertCounts& counts) {
  if (config.expert_counts.empty()) return;
  const std::string path =
      fmt::format("{}/g{}r{}.json", config.expert_counts, config.group, config.rank);
  if (const Status status = WriteExpertCounts(path, counts); !status.ok()) {
    CHOIR_LOG(warn, "--expert-counts: {}", MessageOf(status));
  }
}

}  // namespace choir
