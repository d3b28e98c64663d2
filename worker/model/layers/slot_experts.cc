#include "worker/model/layers/slot_experts.h"

#include <algorithm>
#include <cstring>

#include "common/base/check.h"

namespace choir {
namespace {

TensorView Ids(const void* at, std::initializer_list<int64_t> shape) {
  return TensorView(at, DType::kI32, shape);
}

}  // namespace

StatusOr<SlotExperts> SlotExperts::Make(Device* device, const ModelConfig& config,
                                        const ModelLimits& limits, size_t num_layers) {
  SlotExperts s;
  s.hidden_ = config.hidden;
  s.top_k_ = config.moe->top_k;
  s.experts_ = config.moe->experts;
  s.expert_slots_ = limits.expert_slots;
  s.copies_max_ = limits.num_ranks * s.expert_slots_;
  const auto own = static_cast<size_t>(limits.slot_output_rows * s.top_k_);
  const size_t pairs = own * static_cast<size_t>(limits.num_ranks);
  const size_t row_bytes = static_cast<size_t>(config.hidden) * sizeof(float);
  CHOIR_ASSIGN_OR_RETURN(s.grouped_, device->Allocate(pairs * row_bytes));
  CHOIR_ASSIGN_OR_RETURN(s.slot_of_, device->Allocate(pairs * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(s.row_of_, device->Allocate(pairs * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(s.own_row_of_, device->Allocate(own * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(
      s.offsets_, device->Allocate(static_cast<size_t>(s.expert_slots_ + 1) * sizeof(int32_t)));
  const auto table = static_cast<size_t>(s.experts_ + 1 + 2 * s.copies_max_);
  CHOIR_ASSIGN_OR_RETURN(s.tables_,
                         StagedBuffer::Make(device, num_layers * table * sizeof(int32_t)));
  s.taken_.assign(num_layers * static_cast<size_t>(s.expert_slots_), 0);
  CHOIR_ASSIGN_OR_RETURN(s.counted_, StagedBuffer::Make(device, s.taken_.size() * sizeof(int64_t)));
  return s;
}

int32_t* SlotExperts::TableOf(size_t moe_layer) const {
  return reinterpret_cast<int32_t*>(tables_.host()) +
         static_cast<int64_t>(moe_layer) * (experts_ + 1 + 2 * copies_max_);
}

void SlotExperts::Prepare(const PlacedExperts& experts, ExpertCounts* counts) {
  if (experts.serial == placement_) return;
  if (placement_ == 0) {
    std::memset(counted_.host(), 0, counted_.bytes());
    counted_.Upload(0, counted_.bytes());
  }
  TakeCounts(counts);
  placement_ = experts.serial;
  here_.clear();
  for (size_t l = 0; l < experts.layers.size(); ++l) {
    const ExpertPlacement& layer = experts.layers[l];
    CHOIR_CHECK(layer.num_experts() == experts_ && layer.num_copies() <= copies_max_);
    here_.push_back(layer.ExpertsOf(experts.rank));
    int32_t* const copies = TableOf(l);
    int32_t* const ranks = copies + experts_ + 1;
    int32_t* const slots = ranks + copies_max_;
    int32_t count = 0;
    for (int32_t e = 0; e < layer.num_experts(); ++e) {
      copies[e] = count;
      for (const int32_t rank : layer.RanksOf(e)) {
        ranks[count] = rank;
        slots[count++] = layer.SlotOf(rank, e);
      }
    }
    copies[experts_] = count;
  }
  tables_.Upload(0, tables_.bytes());
}

StatusOr<ResidentRows> SlotExperts::Order(const KernelSet& kernels, const StepContext& step,
                                          SlotExchange* exchange, TensorView x,
                                          TensorView expert_ids, DType payload) const {
  CHOIR_ASSIGN_OR_RETURN(const GatheredRows all, exchange->Gather(x, expert_ids));
  const int64_t pairs = all.expert_ids.num_elements(), rows = all.x.dim(0);
  const int64_t own = pairs / exchange->ranks(), width = all.x.dim(1);
  CHOIR_CHECK(static_cast<size_t>(pairs) * sizeof(int32_t) <= slot_of_.size() && width <= hidden_);
  const int32_t* const copies = reinterpret_cast<const int32_t*>(
      tables_.device() + (reinterpret_cast<std::byte*>(TableOf(step.moe_layer)) - tables_.host()));
  const TensorView slot_of = Ids(slot_of_.data(), {rows, top_k_});
  kernels.PlaceChoices({.expert_ids = all.expert_ids,
                        .copies = Ids(copies, {experts_ + 1}),
                        .copy_rank = Ids(copies + experts_ + 1, {copies_max_}),
                        .copy_slot = Ids(copies + experts_ + 1 + copies_max_, {copies_max_}),
                        .sources = exchange->ranks(),
                        .self = exchange->self(),
                        .slot_of = slot_of,
                        .row_of = Ids(own_row_of_.data(), {own})},
                       step.stream);
  const auto here = static_cast<int64_t>(here_[step.moe_layer].size());
  auto* counted = reinterpret_cast<int64_t*>(counted_.device()) +
                  static_cast<int64_t>(step.moe_layer) * expert_slots_;
  const ResidentRows ordered{
      .x = TensorView(static_cast<void*>(grouped_.data()), payload, {pairs, width}),
      .offsets = {nullptr, static_cast<size_t>(here + 1),
                  reinterpret_cast<const int32_t*>(offsets_.data())},
      .row_of = Ids(row_of_.data(), {pairs})};
  kernels.Permute({.x = all.x,
                   .expert_ids = slot_of,
                   .offsets = Ids(offsets_.data(), {here + 1}),
                   .row_of = ordered.row_of,
                   .counts = TensorView(static_cast<void*>(counted), DType::kI64, {here}),
                   .y = ordered.x},
                  step.stream);
  return ordered;
}

Status SlotExperts::Sum(const KernelSet& kernels, const StepContext& step, SlotExchange* exchange,
                        const ResidentRows& rows, TensorView expert_out, TensorView weights,
                        TensorView residual) const {
  kernels.GatherRows({.x = expert_out, .row_of = rows.row_of, .y = exchange->outputs()},
                     step.stream);
  CHOIR_ASSIGN_OR_RETURN(const TensorView returned, exchange->Return());
  if (step.rows == 0) return {};
  kernels.Unpermute({.y = returned,
                     .row_of = Ids(own_row_of_.data(), {weights.num_elements()}),
                     .weights = weights,
                     .out = residual},
                    step.stream);
  return {};
}

void SlotExperts::DownloadCounts() const { counted_.Download(0, counted_.bytes()); }

void SlotExperts::TakeCounts(ExpertCounts* counts) const {
  const auto* counted = reinterpret_cast<const int64_t*>(counted_.host());
  for (size_t l = 0; l < here_.size(); ++l) {
    for (size_t slot = 0; slot < here_[l].size(); ++slot) {
      const size_t at = l * static_cast<size_t>(expert_slots_) + slot;
      counts->rows[l * static_cast<size_t>(experts_) + static_cast<size_t>(here_[l][slot])] +=
          static_cast<uint64_t>(counted[at] - taken_[at]);
      taken_[at] = counted[at];
    }
  }
}

}  // namespace choir
