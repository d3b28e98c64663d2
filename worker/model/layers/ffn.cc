#include "worker/model/layers/ffn.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "worker/model/layers/f8_rows.h"

namespace choir {
namespace {

constexpr int64_t kHostRowsMax = 2048;  // that the host computes at a time

// Rows that are ordered on the device are ordered by id.
void CheckSlotsAreIds(const PlacedExperts& experts) {
  for (const ExpertPlacement& layer : experts.layers) {
    for (int32_t e = 0; e < layer.num_experts(); ++e) {
      CHOIR_CHECK(layer.SlotOf(experts.rank, e) == e);
    }
  }
}

}  // namespace

StatusOr<DenseFfn> DenseFfn::Make(Device* device, Compute compute, int64_t rows_max,
                                  int64_t width_max) {
  DenseFfn f;
  f.compute_ = compute;
  const size_t bytes = static_cast<size_t>(rows_max * width_max) * sizeof(float);
  CHOIR_ASSIGN_OR_RETURN(f.gate_, device->Allocate(bytes));
  CHOIR_ASSIGN_OR_RETURN(f.up_, device->Allocate(bytes));
  return f;
}

void DenseFfn::Forward(const FfnWeights& w, const KernelSet& kernels, const StepContext& step,
                       const ProductInput& normed, TensorView residual) const {
  const int64_t width = w.gate.w.dim(0);
  const TensorView gate(static_cast<void*>(gate_.data()), DType::kF32, {step.rows, width});
  const TensorView up(static_cast<void*>(up_.data()), DType::kF32, {step.rows, width});
  CHOIR_CHECK(gate.num_bytes() <= gate_.size());
  const LinearArgs products[] = {LinearOf(compute_, w.gate, normed, gate),
                                 LinearOf(compute_, w.up, normed, up)};
  kernels.MergedLinear({products}, step.stream);
  const RoundedRows rounded = RoundedFor(w.down.w, kernels, step, compute_);
  kernels.SwiGlu({.gate = gate, .up = up, .y = gate, .rounded = rounded}, step.stream);
  RunLinear(kernels, step.stream, compute_, w.down, {gate, rounded}, residual, true);
}

StatusOr<MoeFfn> MoeFfn::Make(Device* device, const ModelConfig& config, Compute compute,
                              const ModelLimits& limits) {
  MoeFfn f;
  f.config_ = *config.moe;
  f.hidden_ = config.hidden;
  f.compute_ = compute;
  const int64_t top_k = f.config_.top_k;
  const int64_t rows_max = limits.step_tokens;
  const int64_t received_max = ReceivedRowsMax(limits, top_k);
  CHOIR_ASSIGN_OR_RETURN(f.logits_, ScratchRows::Make(device, rows_max, f.config_.experts));
  CHOIR_ASSIGN_OR_RETURN(f.weights_, ScratchRows::Make(device, rows_max, top_k));
  CHOIR_ASSIGN_OR_RETURN(f.expert_out_, ScratchRows::Make(device, received_max, config.hidden));
  CHOIR_ASSIGN_OR_RETURN(f.expert_scratch_,
                         ScratchRows::Make(device, received_max, f.config_.width));
  CHOIR_ASSIGN_OR_RETURN(f.expert_ids_,
                         device->Allocate(static_cast<size_t>(rows_max * top_k) * sizeof(int32_t)));
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (config.IsMoe(layer)) f.counts_.layers.push_back(static_cast<int32_t>(layer));
  }
  f.counts_.num_experts = static_cast<int32_t>(f.config_.experts);
  f.counts_.rows.assign(f.counts_.layers.size() * static_cast<size_t>(f.config_.experts), 0);
  if (limits.alone && !device->ReadsHostMemory()) {
    CHOIR_ASSIGN_OR_RETURN(f.resident_, ResidentExperts::Make(device, config, rows_max, f.counts_));
  } else {
    CHOIR_ASSIGN_OR_RETURN(f.returned_, ScratchRows::Make(device, rows_max * top_k, config.hidden));
  }
  if (limits.slot_output_rows > 0 && !device->ReadsHostMemory()) {
    CHOIR_ASSIGN_OR_RETURN(f.slots_,
                           SlotExperts::Make(device, config, limits, f.counts_.layers.size()));
  }
  if (f.config_.f8_rows) {
    CHOIR_ASSIGN_OR_RETURN(f.packed_,
                           ScratchRows::Make(device, rows_max, F8Rows(config.hidden).width()));
  }
  if (!device->ReadsHostMemory()) {
    f.expert_slots_ = static_cast<size_t>(limits.expert_slots);
    const size_t table = f.counts_.layers.size() * f.expert_slots_ * sizeof(ExpertWeights);
    CHOIR_ASSIGN_OR_RETURN(f.expert_table_, StagedBuffer::Make(device, table));
  }
  return f;
}

Status MoeFfn::UseHost(Device* device, const KernelSet* kernels, const ModelLimits& limits) {
  CHOIR_ASSIGN_OR_RETURN(
      host_,
      HostFfn::Make(device, kernels,
                    {.rows_max = std::min(kHostRowsMax, ReceivedRowsMax(limits, config_.top_k)),
                     .hidden = hidden_,
                     .width = config_.width,
                     .f8_rows = config_.f8_rows,
                     .num_threads = limits.num_threads}));
  return {};
}

void MoeFfn::Prepare(const PlacedExperts& experts) {
  if (resident_) resident_->Prepare();
  if (slots_) slots_->Prepare(experts, &counts_);
  if (expert_slots_ == 0 || experts.serial == placement_) return;
  placement_ = experts.serial;
  if (resident_) CheckSlotsAreIds(experts);
  auto* to = reinterpret_cast<ExpertWeights*>(expert_table_.host());
  for (const std::vector<ExpertWeights>& layer : experts.weights) {
    CHOIR_CHECK(layer.size() <= expert_slots_);
    std::copy(layer.begin(), layer.end(), to);
    to += expert_slots_;
  }
  expert_table_.Upload(0, experts.weights.size() * expert_slots_ * sizeof(ExpertWeights));
}

Staged<ExpertWeights> MoeFfn::Experts(const StepContext& step) const {
  const std::vector<ExpertWeights>& experts = step.batch.experts->weights[step.moe_layer];
  if (expert_slots_ == 0) return experts;
  const auto* table = reinterpret_cast<const ExpertWeights*>(expert_table_.device());
  return {experts.data(), experts.size(), table + step.moe_layer * expert_slots_};
}

TensorView MoeFfn::ExpertIds(const StepContext& step) const {
  const int64_t top_k = config_.top_k;
  CHOIR_CHECK(static_cast<size_t>((step.first_row + step.rows) * top_k) * sizeof(int32_t) <=
              expert_ids_.size());
  auto* const all = reinterpret_cast<int32_t*>(expert_ids_.data());
  return TensorView(static_cast<void*>(all + step.first_row * top_k), DType::kI32,
                    {step.rows, top_k});
}

TensorView MoeFfn::Returned(const StepContext& step) const {
  const int64_t first = step.first_row * config_.top_k, count = step.rows * config_.top_k;
  return returned_.View(first + count).Rows(first, count);
}

void MoeFfn::Gate(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                  TensorView normed) const {
  const TensorView logits = logits_.View(step);
  // FP32 whatever the model's dtype, as the families were trained.
  kernels.Linear({.x = normed,
                  .w = w.router,
                  .w_scale = {},
                  .bias = w.router_bias,
                  .y = logits,
                  .compute = Compute::kF32},
                 step.stream);
  kernels.GateTopK({.logits = logits,
                    .bias = w.correction_bias,
                    .score = config_.score,
                    .num_groups = config_.num_groups,
                    .groups_kept = config_.groups_kept,
                    .group_score = config_.group_score,
                    .masked_score_is_zero = config_.masked_score_is_zero,
                    .normalize = config_.normalize,
                    .scaling = config_.scaling,
                    .expert_ids = ExpertIds(step),
                    .weights = weights_.View(step),
                    .num_rows = step.inputs.num_rows},
                   step.stream);
}

ExpertFfnArgs MoeFfn::FfnOf(const MoeWeights& w, const StepContext& step, const TensorView& rows,
                            const Staged<int32_t>& offsets) const {
  const int64_t count = rows.dim(0);
  ExpertFfnArgs args{.x = rows,
                     .offsets = offsets,
                     .experts = Experts(step),
                     .y = expert_out_.View(count),
                     .scratch = expert_scratch_.View(count),
                     .compute = compute_,
                     .glu = config_.glu,
                     .input_major = w.input_major};
  if (config_.f8_rows) F8Rows(hidden_).Open(rows, &args);
  return args;
}

Status MoeFfn::RunExperts(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                          const DispatchedRows& rows) {
  CHOIR_CHECK(Experts(step).size() == rows.experts.size());
  Count(step.moe_layer, rows);
  const int64_t received = rows.offsets.back();
  if (received == 0) return {};
  const ExpertFfnArgs args = FfnOf(w, step, rows.x, rows.offsets);
  if (host_) {
    const size_t device_slots = step.batch.experts->device_slots[step.moe_layer];
    return host_->Run(kernels, args, device_slots, step.stream);
  }
  kernels.ExpertFfn(args, step.stream);
  return {};
}

TensorView MoeFfn::ExpertRows(const KernelSet& kernels, const StepContext& step,
                              TensorView normed) const {
  if (!config_.f8_rows) return normed;
  const TensorView packed = packed_.View(step);
  if (step.rows > 0) F8Rows(hidden_).Quantize(kernels, normed, packed, step.stream);
  return packed;
}

DType MoeFfn::Payload() const {
  const bool rounds = compute_ == Compute::kBF16 && !config_.f8_rows;  // what is packed is words
  return rounds ? DType::kBF16 : DType::kF32;
}

Status MoeFfn::SendRows(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                        TensorView normed) {
  CHOIR_CHECK(step.exchange != nullptr);
  if (step.rows > 0) Gate(w, kernels, step, normed);
  return step.exchange->BeginDispatch(step.batch.experts->layers[step.moe_layer],
                                      ExpertRows(kernels, step, normed), ExpertIds(step),
                                      Payload());
}

Status MoeFfn::RunRows(const MoeWeights& w, const KernelSet& kernels, const StepContext& step) {
  CHOIR_ASSIGN_OR_RETURN(const DispatchedRows rows, step.exchange->EndDispatch());
  CHOIR_RETURN_IF_ERROR(RunExperts(w, kernels, step, rows));
  return step.exchange->BeginCombine(expert_out_.View(rows.offsets.back()), Returned(step));
}

Status MoeFfn::SumOutputs(const MoeWeights& w, const DenseFfn& shared, const KernelSet& kernels,
                          const StepContext& step, TensorView normed, TensorView residual) {
  CHOIR_RETURN_IF_ERROR(step.exchange->EndCombine());
  if (step.rows == 0) return {};
  kernels.Combine({.y = Returned(step), .weights = weights_.View(step), .out = residual},
                  step.stream);
  if (w.shared) shared.Forward(*w.shared, kernels, step, {normed, {}}, residual);
  return {};
}

TensorView MoeFfn::FirstProduct(const MoeWeights& w, const StepContext& step) const {
  if (resident_) return Experts(step)[0].gate;
  const bool in_slots = step.exchange != nullptr && step.exchange->InSlots() != nullptr;
  return in_slots && w.shared ? w.shared->gate.w : TensorView();
}

// Whether experts, all of one format and shape, take rows as they were rounded.
bool MoeFfn::TakeRounded(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                         const RoundedRows& rounded) const {
  if (rounded.empty() || config_.f8_rows || w.input_major) return false;
  const ExpertWeights& any = Experts(step)[0];
  return kernels.OrderOfRows(any.gate.dtype(), any.gate.dim(1), compute_) == rounded.order &&
         kernels.OrderOfRows(any.down.dtype(), any.down.dim(1), compute_) == rounded.order;
}

// With every expert here: nothing that the host would have to know.
void MoeFfn::RunAllHere(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                        const ProductInput& normed, TensorView residual) {
  CHOIR_CHECK(Experts(step).size() == static_cast<size_t>(config_.experts));
  const RoundedRows& rounded = normed.rounded;
  const TensorView ids = ExpertIds(step);
  ResidentRows rows;
  ExpertFfnArgs args;
  if (TakeRounded(w, kernels, step, rounded)) {  // as words on their way
    const TensorView words(static_cast<void*>(rounded.data), DType::kF32, {step.rows, hidden_ / 2});
    rows = resident_->Order(kernels, step, words, rounded.pitch / 2, ids, DType::kF32);
    args = FfnOf(w, step, rows.x, rows.offsets);
    args.x = TensorView(rows.x.raw(), DType::kBF16, {rows.x.dim(0), hidden_});
    args.x_order = rounded.order;
  } else {
    rows = resident_->Order(kernels, step, ExpertRows(kernels, step, normed.x), 0, ids, Payload());
    args = FfnOf(w, step, rows.x, rows.offsets);
  }
  const int64_t pairs = rows.x.dim(0);
  kernels.ExpertFfn(args, step.stream);
  kernels.Unpermute({.y = expert_out_.View(pairs),
                     .row_of = rows.row_of,
                     .weights = weights_.View(step),
                     .out = residual},
                    step.stream);
}

Status MoeFfn::RunInSlots(const MoeWeights& w, const DenseFfn& shared, const KernelSet& kernels,
                          const StepContext& step, SlotExchange* exchange,
                          const ProductInput& normed, TensorView residual) {
  CHOIR_CHECK(slots_ && !host_);
  if (step.rows > 0) Gate(w, kernels, step, normed.x);
  CHOIR_ASSIGN_OR_RETURN(const ResidentRows rows,
                         slots_->Order(kernels, step, exchange, ExpertRows(kernels, step, normed.x),
                                       ExpertIds(step), Payload()));
  if (!Experts(step).empty()) kernels.ExpertFfn(FfnOf(w, step, rows.x, rows.offsets), step.stream);
  CHOIR_RETURN_IF_ERROR(slots_->Sum(kernels, step, exchange, rows, expert_out_.View(rows.x.dim(0)),
                                    weights_.View(step), residual));
  if (w.shared && step.rows > 0) shared.Forward(*w.shared, kernels, step, normed, residual);
  return {};
}

Status MoeFfn::Forward(const MoeWeights& w, const DenseFfn& shared, const KernelSet& kernels,
                       const StepContext& step, const ProductInput& normed, TensorView residual) {
  SlotExchange* const in_slots = step.exchange == nullptr ? nullptr : step.exchange->InSlots();
  if (in_slots != nullptr) {
    return RunInSlots(w, shared, kernels, step, in_slots, normed, residual);
  }
  if (!resident_) {
    CHOIR_RETURN_IF_ERROR(SendRows(w, kernels, step, normed.x));
    CHOIR_RETURN_IF_ERROR(RunRows(w, kernels, step));
    return SumOutputs(w, shared, kernels, step, normed.x, residual);
  }
  if (step.rows == 0) return {};
  Gate(w, kernels, step, normed.x);
  RunAllHere(w, kernels, step, normed, residual);
  if (w.shared) shared.Forward(*w.shared, kernels, step, normed, residual);
  return {};
}

void MoeFfn::Finish() {
  if (resident_) resident_->DownloadCounts();
  if (slots_) slots_->DownloadCounts();
}

const ExpertCounts& MoeFfn::counts() const {
  if (resident_) return resident_->counts();
  if (slots_) slots_->TakeCounts(&counts_);
  return counts_;
}

void MoeFfn::Count(size_t moe_layer, const DispatchedRows& rows) {
  uint64_t* layer = counts_.rows.data() + moe_layer * static_cast<size_t>(counts_.num_experts);
  for (size_t i = 0; i < rows.experts.size(); ++i) {
    layer[rows.experts[i]] += static_cast<uint64_t>(rows.offsets[i + 1] - rows.offsets[i]);
  }
}

}  // namespace choir
