// From options and a model to an engine: every limit is checked and all memory is sized here.
#include <algorithm>
#include <string>
#include <utility>

#include "worker/device/host_memory.h"
#include "worker/engine/engine_impl.h"

namespace choir {
namespace {

constexpr int kRanksMax = 256;
constexpr int64_t kStepTokensMax = 65536;
constexpr int64_t kQueueMax = 1 << 20;
constexpr int64_t kGraphRowsMax = 1024;  // bounds the number of graphs, and their memory

Status CheckRange(const char* name, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return InvalidArgument("engine: {} {} is not in {}..{}", name, value, min, max);
}

Status CheckPlacement(const EngineOptions& options, const ModelInfo& info, int num_ranks) {
  CHOIR_RETURN_IF_ERROR(CheckRange("placement_steps", options.placement_steps, 1, kQueueMax));
  const int32_t share = ExpertSlots(info.num_experts, num_ranks, 0);
  const int32_t others = info.num_experts - share;
  if (options.redundant_experts < 0 || options.redundant_experts > others) {
    return InvalidArgument(
        "engine: redundant_experts {} is not in 0..{}: of the {} experts of a layer a rank holds "
        "{} "
        "already",
        options.redundant_experts, others, info.num_experts, share);
  }
  if (options.expert_cover && options.redundant_experts == 0) {
    return InvalidArgument(
        "engine: expert_cover: second copies of experts need room; give redundant_experts, {} for "
        "all of them",
        (2 * info.num_experts + num_ranks - 1) / num_ranks - share);
  }
  return absl::OkStatus();
}

Status CheckQueuesAndThreads(const EngineOptions& options) {
  CHOIR_RETURN_IF_ERROR(CheckRange("inbox_max", options.inbox_max, 1, kQueueMax));
  CHOIR_RETURN_IF_ERROR(CheckRange("waiting_max", options.waiting_max, 1, kQueueMax));
  CHOIR_RETURN_IF_ERROR(CheckRange("num_threads", options.num_threads, 1, kRanksMax));
  return CheckRange("nice", options.nice, 0, 19);
}

// What it maps costs nothing until it is touched, so the system would not refuse it.
Status CheckHostMemory(uint64_t kv_bytes) {
  const uint64_t memory = HostMemoryBytes();
  if (kv_bytes <= memory) return absl::OkStatus();
  return ResourceExhausted(
      "kv_bytes {} (--kv-bytes): the memory of this machine, or of the cgroup of this process, is "
      "{} bytes; give less",
      kv_bytes, memory);
}

}  // namespace

Status Engine::Check(const EngineOptions& options, const LoadedModel& sizes, int num_ranks) {
  CHOIR_RETURN_IF_ERROR(CheckQueuesAndThreads(options));
  CHOIR_RETURN_IF_ERROR(LimitsFor(options, sizes.info(), num_ranks).status());
  CHOIR_RETURN_IF_ERROR(
      KvPool::BlocksOf(sizes.kv_layout(), options.kv_bytes, options.block_tokens).status());
  return sizes.device().ReadsHostMemory() ? CheckHostMemory(options.kv_bytes) : absl::OkStatus();
}

StatusOr<ModelLimits> Engine::LimitsFor(const EngineOptions& options, const ModelInfo& info,
                                        int num_ranks) {
  CHOIR_RETURN_IF_ERROR(CheckRange("ranks", num_ranks, 1, kRanksMax));
  CHOIR_RETURN_IF_ERROR(CheckRange("step_tokens", options.step_tokens, 1, kStepTokensMax));
  CHOIR_RETURN_IF_ERROR(CheckRange("sequences_max", options.sequences_max, 1, kStepTokensMax));
  CHOIR_RETURN_IF_ERROR(
      CheckRange("context_length", options.context_length, 0, info.context_length));
  CHOIR_RETURN_IF_ERROR(CheckRange("graph_rows_max", options.graph_rows_max, 0, kGraphRowsMax));
  CHOIR_RETURN_IF_ERROR(CheckPlacement(options, info, num_ranks));
  ModelLimits limits;
  limits.graph_rows_max = options.graph_rows_max;
  limits.expert_slots = ExpertSlots(info.num_experts, num_ranks, options.redundant_experts);
  limits.step_tokens = options.step_tokens;
  limits.alone = num_ranks == 1 && !info.host_experts;
  limits.step_tokens_group = options.step_tokens * num_ranks;
  limits.block_tokens = options.block_tokens;
  limits.positions_max = options.context_length > 0 ? options.context_length : info.context_length;
  // Each running sequence may want a token and its logits in one step.
  limits.logit_rows_max = std::min(options.sequences_max, options.step_tokens);
  limits.num_threads = options.num_threads;
  limits.num_ranks = num_ranks;
  if (options.row_path != RowPath::kHost && !info.host_experts) {
    limits.slot_output_rows = std::min(
        limits.step_tokens, OutputRows(options.slots, {num_ranks, info.top_k, info.hidden}));
  }
  return limits;
}

StatusOr<EngineParts> MakeEngineParts(const EngineOptions& options, std::unique_ptr<Model> model,
                                      const KernelSet* kernels, int num_ranks) {
  const LoadedModel& loaded = model->loaded();
  const ModelInfo& info = loaded.info();
  Device* const device = &loaded.device();
  CHOIR_RETURN_IF_ERROR(CheckQueuesAndThreads(options));
  EngineParts parts;
  parts.options = options;
  parts.num_ranks = num_ranks;
  CHOIR_ASSIGN_OR_RETURN(parts.limits, Engine::LimitsFor(options, info, num_ranks));
  CHOIR_ASSIGN_OR_RETURN(
      parts.kv, KvPool::Make(loaded.kv_layout(), options.kv_bytes, options.block_tokens, device));
  CHOIR_ASSIGN_OR_RETURN(
      parts.exchanges,
      ExchangeMaker::Make(
          device, kernels,
          {.num_experts = info.num_experts,
           .num_ranks = num_ranks,
           .expert_slots = parts.limits.expert_slots,
           .path = options.row_path,
           .alone = parts.limits.alone,
           .slot_rows = options.slots.rows,
           .slot_output_rows = parts.limits.slot_output_rows,
           .micro_batch_rows = options.micro_batch_rows},
          {.tokens_max = parts.limits.step_tokens, .top_k = info.top_k, .hidden = info.hidden}));
  if (kernels != nullptr) {
    const int64_t rows_max =
        std::max(parts.limits.step_tokens, ReceivedRowsMax(parts.limits, info.top_k));
    const KernelLimits limits{.rows_max = rows_max,
                              .columns_max = info.columns_max,
                              .positions_max = parts.limits.positions_max,
                              .heads_max = info.heads_max};
    CHOIR_ASSIGN_OR_RETURN(parts.workspace,
                           device->Allocate(kernels->WorkspaceBytes(limits, options.num_threads)));
  }
  CHOIR_ASSIGN_OR_RETURN(
      parts.sampler, RowSampler::Make(device, kernels, info.vocab, parts.limits.logit_rows_max));
  parts.model = std::move(model);
  return parts;
}

StatusOr<std::unique_ptr<Engine>> Engine::MakeWithModel(const EngineOptions& options,
                                                        std::unique_ptr<Model> model,
                                                        const KernelSet* kernels, int num_ranks,
                                                        Sink sink) {
  CHOIR_ASSIGN_OR_RETURN(EngineParts parts,
                         MakeEngineParts(options, std::move(model), kernels, num_ranks));
  parts.team = std::make_unique<ThreadTeam>(options.num_threads, options.nice);
  parts.sampler->Use(parts.team.get());
  parts.sink = std::move(sink);
  return std::make_unique<EngineImpl>(std::move(parts));
}

}  // namespace choir
