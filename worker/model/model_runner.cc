#include "worker/model/model_runner.h"

#include <algorithm>
#include <numeric>

#include "common/base/check.h"

namespace choir {

StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Make(std::shared_ptr<const LoadedModel> loaded,
                                                         const KernelSet* kernels,
                                                         Collectives* collectives,
                                                         const RunnerOptions& options) {
  const ModelInfo& info = loaded->info();
  RunnerOptions o = options;
  if (o.positions_max <= 0) o.positions_max = info.context_length;
  std::unique_ptr<ModelRunner> runner(new ModelRunner(loaded, o));
  CHOIR_RETURN_IF_ERROR(loaded->device().Use());
  CHOIR_RETURN_IF_ERROR(runner->PlaceExperts(*collectives));
  const ModelLimits limits{.step_tokens = o.step_tokens,
                           .step_tokens_group = o.step_tokens * collectives->size(),
                           .expert_slots = runner->expert_slots_,
                           .positions_max = o.positions_max,
                           .logit_rows_max = o.step_tokens,
                           .block_tokens = o.block_tokens,
                           .alone = collectives->size() == 1 && !info.host_experts,
                           .num_ranks = collectives->size(),
                           .slot_output_rows = runner->SlotOutputRows(collectives),
                           .graph_rows_max = o.graph_rows_max,
                           .num_threads = o.num_threads};
  CHOIR_ASSIGN_OR_RETURN(runner->model_, MakeModel(loaded, kernels, limits));
  CHOIR_RETURN_IF_ERROR(runner->Allocate(*kernels, collectives->size()));
  CHOIR_ASSIGN_OR_RETURN(
      runner->exchanges_,
      ExchangeMaker::Make(
          &loaded->device(), kernels,
          {.num_experts = info.num_experts,
           .num_ranks = collectives->size(),
           .expert_slots = runner->expert_slots_,
           .path = collectives->device() != nullptr ? RowPath::kDevice : RowPath::kHost,
           .alone = limits.alone,
           .slot_rows = o.slots.rows,
           .slot_output_rows = limits.slot_output_rows,
           .micro_batch_rows = o.micro_batch_rows},
          {.tokens_max = o.step_tokens, .top_k = info.top_k, .hidden = info.hidden}));
  runner->collectives_ = collectives;
  runner->exchange_ = runner->exchanges_.ForEpoch(collectives, runner->stream_);
  return runner;
}

int64_t ModelRunner::SlotOutputRows(Collectives* collectives) const {
  const ModelInfo& info = loaded_->info();
  if (collectives->device() == nullptr || info.host_experts) return 0;
  const int64_t rows = OutputRows(options_.slots, {collectives->size(), info.top_k, info.hidden});
  return std::min(options_.step_tokens, rows);
}

Status ModelRunner::PlaceExperts(const Collectives& collectives) {
  if (loaded_->info().num_experts == 0) return {};
  std::vector<ExpertPlacement> layers = options_.placement;
  if (layers.empty()) layers = FirstPlacement(loaded_->info(), collectives.size());
  for (const ExpertPlacement& layer : layers) {
    for (int32_t r = 0; r < layer.num_ranks(); ++r) {
      expert_slots_ = std::max(expert_slots_, static_cast<int32_t>(layer.ExpertsOf(r).size()));
    }
  }
  CHOIR_ASSIGN_OR_RETURN(experts_, loaded_->PlaceExperts(std::move(layers), collectives.rank(),
                                                         nullptr, std::stop_token()));
  return {};
}

Status ModelRunner::Allocate(const KernelSet& kernels, int num_ranks) {
  const ModelInfo& info = loaded_->info();
  const int64_t received = options_.step_tokens * num_ranks * std::max(info.top_k, 1);
  const KernelLimits limits{.rows_max = received,
                            .columns_max = info.columns_max,
                            .positions_max = options_.positions_max,
                            .heads_max = info.heads_max};
  Device& device = loaded_->device();
  CHOIR_ASSIGN_OR_RETURN(workspace_,
                         device.Allocate(kernels.WorkspaceBytes(limits, options_.num_threads)));
  stream_ = {&team_, {workspace_.data(), workspace_.size()}, device.stream()};
  CHOIR_ASSIGN_OR_RETURN(
      logits_, StagedBuffer::Make(&device, static_cast<size_t>(options_.step_tokens * info.vocab) *
                                               sizeof(float)));
  const KvLayout layout = loaded_->kv_layout();
  const int64_t tokens = options_.block_tokens;
  const int64_t blocks_each = (options_.positions_max + tokens - 1) / tokens;
  const int64_t blocks = blocks_each * options_.sequences;
  CHOIR_ASSIGN_OR_RETURN(
      pool_, device.Allocate(static_cast<size_t>(blocks * tokens * layout.BytesPerToken())));
  std::byte* at = pool_.data();
  const auto take = [&](int64_t width) {
    if (width == 0) return KvView{};
    KvView view{TensorView(static_cast<void*>(at), layout.dtype, {blocks, tokens, width})};
    at += view.data.num_bytes();
    return view;
  };
  for (const LayerKv& layer : layout.layers) {
    const KvView k = take(layer.k_width);
    kv_.push_back({k, take(layer.v_width)});
  }
  // Blocks of the sequences alternate, so that no result can hang on their being neighbours.
  block_tables_.resize(static_cast<size_t>(options_.sequences));
  for (int32_t b = 0; b < blocks; ++b) {
    block_tables_[static_cast<size_t>(b % options_.sequences)].push_back(b);
  }
  return {};
}

// An engine's ranks tell each other anyway.
Status ModelRunner::TellTokens(int64_t own) {
  const bool asked = options_.slots.rows > 0 || options_.micro_batch_rows > 0;
  if (!asked || exchange_ == nullptr) return {};
  std::vector<int64_t> tokens(static_cast<size_t>(collectives_->size()));
  CHOIR_RETURN_IF_ERROR(collectives_->AllGather(std::as_bytes(std::span(&own, 1)),
                                                std::as_writable_bytes(std::span(tokens))));
  exchange_->BeginStep(tokens);
  return {};
}

StatusOr<std::span<const float>> ModelRunner::Step(std::span<const Rows> rows) {
  std::vector<int32_t> tokens, positions;
  std::vector<int64_t> slots;
  std::vector<AttentionSequence> sequences;
  for (const Rows& r : rows) {
    const std::vector<int32_t>& table = block_tables_[static_cast<size_t>(r.sequence)];
    const auto count = static_cast<int32_t>(r.tokens.size());
    CHOIR_CHECK(r.first_position + count <= options_.positions_max);
    sequences.push_back({.row_begin = static_cast<int32_t>(tokens.size()),
                         .row_count = count,
                         .first_position = r.first_position,
                         .block_table = table.data()});
    for (int32_t p = r.first_position; p < r.first_position + count; ++p) {
      positions.push_back(p);
      const int64_t block = table[static_cast<size_t>(p / options_.block_tokens)];
      slots.push_back(block * options_.block_tokens + p % options_.block_tokens);
    }
    tokens.insert(tokens.end(), r.tokens.begin(), r.tokens.end());
  }
  std::vector<int32_t> logit_rows(tokens.size());
  std::iota(logit_rows.begin(), logit_rows.end(), 0);
  const auto count = static_cast<int64_t>(tokens.size());
  const TensorView logits(static_cast<void*>(logits_.device()), DType::kF32,
                          {count, loaded_->info().vocab});
  CHOIR_RETURN_IF_ERROR(TellTokens(static_cast<int64_t>(tokens.size())));
  CHOIR_RETURN_IF_ERROR(model_->Forward({.tokens = tokens,
                                         .positions = positions,
                                         .slots = slots,
                                         .sequences = sequences,
                                         .logit_rows = logit_rows,
                                         .logits = logits,
                                         .kv = kv_,
                                         .experts = experts_.get()},
                                        exchange_.get(), stream_));
  logits_.Download(0, logits.num_bytes());
  CHOIR_RETURN_IF_ERROR(loaded_->device().Wait());
  return std::span(reinterpret_cast<const float*>(logits_.host()),
                   static_cast<size_t>(logits.num_elements()));
}

}  // namespace choir
