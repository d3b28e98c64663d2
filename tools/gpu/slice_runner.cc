#include "tools/gpu/slice_runner.h"

#include <algorithm>

#include "worker/comm/local_collectives.h"

namespace choir::gpu {

StatusOr<std::unique_ptr<SliceRunner>> SliceRunner::Make(std::shared_ptr<const LoadedModel> loaded,
                                                         const KernelSet* kernels,
                                                         const SliceLimits& limits) {
  std::unique_ptr<SliceRunner> runner(new SliceRunner(std::move(loaded), kernels, limits));
  CHOIR_RETURN_IF_ERROR(runner->Allocate());
  CHOIR_RETURN_IF_ERROR(runner->AllocatePool());
  return runner;
}

Status SliceRunner::Allocate() {
  const ModelInfo& info = loaded_->info();
  Device& device = loaded_->device();
  collectives_ = MakeSingleCollectives(1);
  CHOIR_ASSIGN_OR_RETURN(
      experts_, loaded_->PlaceExperts(FirstPlacement(info, 1), 0, nullptr, std::stop_token()));
  const ModelLimits limits{.step_tokens = limits_.rows_max,
                           .step_tokens_group = limits_.rows_max,
                           .expert_slots = info.num_experts,
                           .positions_max = limits_.context,
                           .logit_rows_max = limits_.sequences_max,
                           .block_tokens = limits_.block_tokens,
                           .alone = true,
                           .graph_rows_max = limits_.graphs ? limits_.sequences_max : 0};
  CHOIR_ASSIGN_OR_RETURN(model_, MakeModel(loaded_, &kernels_, limits));
  const KernelLimits kernel_limits{.rows_max = limits_.rows_max * std::max(info.top_k, 1),
                                   .columns_max = info.columns_max,
                                   .positions_max = limits_.context,
                                   .heads_max = info.heads_max};
  CHOIR_ASSIGN_OR_RETURN(workspace_, device.Allocate(kernels_.WorkspaceBytes(kernel_limits, 1)));
  stream_ = {&team_, {workspace_.data(), workspace_.size()}, device.stream()};
  CHOIR_ASSIGN_OR_RETURN(
      exchanges_,
      ExchangeMaker::Make(
          &device, &kernels_,
          {.num_experts = info.num_experts, .expert_slots = info.num_experts, .alone = true},
          {.tokens_max = limits_.rows_max, .top_k = info.top_k, .hidden = info.hidden}));
  exchange_ = exchanges_.ForEpoch(collectives_.get(), stream_);
  const auto rows = static_cast<size_t>(limits_.sequences_max);
  CHOIR_ASSIGN_OR_RETURN(logits_,
                         device.Allocate(rows * static_cast<size_t>(info.vocab) * sizeof(float)));
  CHOIR_ASSIGN_OR_RETURN(ids_, StagedBuffer::Make(&device, rows * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(first_logits_,
                         device.AllocateHost(static_cast<size_t>(info.vocab) * sizeof(float)));
  return {};
}

Status SliceRunner::AllocatePool() {
  const KvLayout layout = loaded_->kv_layout();
  const int64_t tokens = limits_.block_tokens;
  blocks_each_ = (limits_.context + tokens - 1) / tokens;
  const int64_t blocks = blocks_each_ * limits_.sequences_max;
  CHOIR_ASSIGN_OR_RETURN(pool_, loaded_->device().Allocate(
                                    static_cast<size_t>(blocks * tokens * layout.BytesPerToken())));
  std::byte* at = pool_.data();
  for (const LayerKv& layer : layout.layers) {
    const KvView k{
        TensorView(static_cast<void*>(at), layout.dtype, {blocks, tokens, layer.k_width})};
    at += k.data.num_bytes();
    kv_.push_back({k, {}});
    pieces_.push_back({k.data, {}});
  }
  // Blocks of sequences alternate, as in an engine that has run for a while.
  for (int64_t s = 0; s < limits_.sequences_max; ++s) {
    for (int64_t b = 0; b < blocks_each_; ++b) {
      table_.push_back(static_cast<int32_t>(b * limits_.sequences_max + s));
    }
  }
  return {};
}

Status SliceRunner::Decode(int64_t sequences) {
  std::vector<Rows> rows;
  for (int64_t s = 0; s < sequences; ++s) rows.push_back({s, limits_.context - 1, 1});
  return Step(rows);
}

Status SliceRunner::Prefill(int64_t rows) { return Step({{0, 0, rows}}); }

Status SliceRunner::Step(const std::vector<Rows>& all) {
  std::vector<int32_t> tokens, positions, logit_rows;
  std::vector<int64_t> slots;
  std::vector<AttentionSequence> sequences;
  for (const Rows& r : all) {
    const int32_t* table = table_.data() + r.sequence * blocks_each_;
    sequences.push_back({static_cast<int32_t>(tokens.size()), static_cast<int32_t>(r.count),
                         static_cast<int32_t>(r.first), table});
    for (int64_t p = r.first; p < r.first + r.count; ++p) {
      tokens.push_back(
          static_cast<int32_t>((p * 7919 + r.sequence * 104729) % loaded_->info().vocab));
      positions.push_back(static_cast<int32_t>(p));
      slots.push_back(int64_t{table[p / limits_.block_tokens]} * limits_.block_tokens +
                      p % limits_.block_tokens);
    }
    logit_rows.push_back(static_cast<int32_t>(tokens.size()) - 1);
  }
  const auto sampled = static_cast<int64_t>(logit_rows.size());
  const TensorView logits(static_cast<void*>(logits_.data()), DType::kF32,
                          {sampled, loaded_->info().vocab});
  CHOIR_RETURN_IF_ERROR(model_->Forward({.tokens = tokens,
                                         .positions = positions,
                                         .slots = slots,
                                         .sequences = sequences,
                                         .logit_rows = logit_rows,
                                         .logits = logits,
                                         .kv = kv_,
                                         .experts = experts_.get()},
                                        exchange_.get(), stream_));
  std::vector<SampleRow> rows(static_cast<size_t>(sampled),
                              {.temperature = 0.7, .top_p = 0.95, .top_k = 50});
  for (size_t i = 0; i < rows.size(); ++i) rows[i].seed = i;
  const TensorView ids(static_cast<void*>(ids_.device()), DType::kI32, {sampled});
  if (!kernels_.TrySample({.logits = logits, .rows = rows, .ids = ids}, stream_)) {
    return Unimplemented("these kernels do not sample");
  }
  ids_.Download(0, ids.num_bytes());
  return loaded_->device().Wait();
}

StatusOr<std::vector<float>> SliceRunner::FirstLogits() {
  Device& device = loaded_->device();
  device.Copy(first_logits_.data(), logits_.data(), first_logits_.size());
  CHOIR_RETURN_IF_ERROR(device.Wait());
  const auto* values = reinterpret_cast<const float*>(first_logits_.data());
  return std::vector<float>(values, values + loaded_->info().vocab);
}

}  // namespace choir::gpu
