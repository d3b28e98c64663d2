#include "worker/model/transformer.h"

#include <algorithm>
#include <span>
#include <utility>

namespace choir {
namespace {

constexpr int64_t kRopeStep = 1024;  // positions that the rope tables grow by at least

// Rows that this rank's experts get at most in one layer: every row of the group chooses top_k
// experts, none twice.
int64_t ReceivedRowsMax(const MoeConfig& moe, const ModelLimits& limits) {
  return limits.step_tokens_group * std::min<int64_t>(moe.top_k, limits.expert_slots);
}

}  // namespace

StatusOr<std::unique_ptr<Model>> Transformer::Make(std::shared_ptr<const LoadedTransformer> loaded,
                                                   const KernelSet* kernels,
                                                   const ModelLimits& limits) {
  CHOIR_CHECK(limits.step_tokens >= 1 && limits.logit_rows_max >= 1);
  std::unique_ptr<Transformer> model(new Transformer(std::move(loaded), kernels));
  CHOIR_RETURN_IF_ERROR(model->Allocate(limits));
  return std::unique_ptr<Model>(std::move(model));
}

Status Transformer::Allocate(const ModelLimits& limits) {
  const ModelConfig& c = loaded_->config();
  const Compute compute = loaded_->compute();
  Device* const device = &loaded_->device();
  limits_ = limits;
  if (limits_.positions_max <= 0) limits_.positions_max = c.positions_max;
  CHOIR_RETURN_IF_ERROR(MakeRopeTables(limits_.positions_max));
  const size_t step_bytes = static_cast<size_t>(limits.step_tokens) * sizeof(int32_t);
  CHOIR_ASSIGN_OR_RETURN(tokens_, StagedBuffer::Make(device, step_bytes));
  CHOIR_ASSIGN_OR_RETURN(positions_, StagedBuffer::Make(device, step_bytes));
  CHOIR_ASSIGN_OR_RETURN(residual_, ScratchRows::Make(device, limits.step_tokens, c.hidden));
  CHOIR_ASSIGN_OR_RETURN(normed_, ScratchRows::Make(device, limits.step_tokens, c.hidden));
  CHOIR_ASSIGN_OR_RETURN(logit_rows_, ScratchRows::Make(device, limits.logit_rows_max, c.hidden));
  if (c.gqa) {
    CHOIR_ASSIGN_OR_RETURN(
        gqa_, GqaAttention::Make(device, c, compute, rope_tables_, limits.step_tokens));
  } else {
    CHOIR_ASSIGN_OR_RETURN(
        mla_, MlaAttention::Make(device, c, compute, rope_tables_, limits.step_tokens));
  }
  const int64_t dense_layers = c.layers - c.NumMoeLayers();
  const int64_t width =
      std::max(dense_layers > 0 ? c.dense_width : 0, c.moe ? c.moe->shared_width : 0);
  CHOIR_ASSIGN_OR_RETURN(dense_, DenseFfn::Make(device, compute, limits.step_tokens, width));
  if (c.NumMoeLayers() > 0) {
    CHOIR_CHECK(limits.step_tokens_group >= limits.step_tokens && limits.expert_slots >= 1);
    CHOIR_ASSIGN_OR_RETURN(moe_, MoeFfn::Make(device, c, compute, limits.step_tokens,
                                              ReceivedRowsMax(*c.moe, limits)));
  }
  return {};
}

Status Transformer::MakeRopeTables(int64_t positions) {
  const int64_t half = loaded_->config().rope.rotary_dim / 2;
  const auto count = static_cast<size_t>(positions * half);
  auto buffer = StagedBuffer::Make(&loaded_->device(), 2 * count * sizeof(float));
  if (!buffer.ok()) {
    return Annotate(buffer.status(),
                    fmt::format("{} positions (lower the context length)", positions));
  }
  rope_buffer_ = std::move(buffer).value();
  auto* cos = reinterpret_cast<float*>(rope_buffer_.device());
  rope_tables_.cos = TensorView(static_cast<void*>(cos), DType::kF32, {positions, half});
  rope_tables_.sin = TensorView(static_cast<void*>(cos + count), DType::kF32, {positions, half});
  return {};
}

// Tables of a long context take memory and a second of start-up that short sequences never need.
void Transformer::ExtendRopeTables(const ModelBatch& batch) {
  const int64_t reach = *std::max_element(batch.positions.begin(), batch.positions.end()) + 1;
  CHOIR_CHECK(reach <= limits_.positions_max);
  if (reach <= rope_filled_) return;
  const int64_t end = std::min(std::max(reach, rope_filled_ + kRopeStep), limits_.positions_max);
  const auto count = static_cast<size_t>(rope_tables_.cos.num_elements());
  auto* cos = reinterpret_cast<float*>(rope_buffer_.host());
  FillRopeTables(loaded_->config().rope, rope_filled_, end, {cos, count}, {cos + count, count});
  const size_t row = static_cast<size_t>(rope_tables_.cos.dim(1)) * sizeof(float);
  const size_t begin = static_cast<size_t>(rope_filled_) * row;
  const size_t bytes = static_cast<size_t>(end - rope_filled_) * row;
  rope_buffer_.Upload(begin, bytes);
  rope_buffer_.Upload(count * sizeof(float) + begin, bytes);
  rope_filled_ = end;
}

void Transformer::CheckBatch(const ModelBatch& b) const {
  CHOIR_CHECK(static_cast<int64_t>(b.tokens.size()) <= limits_.step_tokens);
  CHOIR_CHECK(b.positions.size() == b.tokens.size() && b.slots.size() == b.tokens.size());
  CHOIR_CHECK(static_cast<int64_t>(b.logit_rows.size()) <= limits_.logit_rows_max);
  CHOIR_CHECK(b.tokens.empty() || b.kv.size() == static_cast<size_t>(loaded_->config().layers));
  CHOIR_CHECK(!moe_ ||
              (b.experts != nullptr && b.experts->weights.size() == moe_->counts().layers.size()));
}

void Transformer::Attention(size_t layer, const StepContext& step) {
  const ModelConfig& c = loaded_->config();
  const LayerWeights& w = loaded_->weights().layers[layer];
  const LayerKvView& kv = step.batch.kv[layer];
  const TensorView x = residual_.View(step.rows), h = normed_.View(step.rows);
  kernels_.RmsNorm({.x = x, .w = w.attention_norm, .y = h, .eps = c.norm_eps}, step.stream);
  if (gqa_) {
    const GqaLayer own{*w.gqa, kv, c.WindowOf(static_cast<int64_t>(layer))};
    gqa_->Forward(own, kernels_, step, h, x);
  } else {
    mla_->Forward(*w.mla, kv, kernels_, step, h, x);
  }
}

Status Transformer::FeedForward(const LayerWeights& w, const StepContext& step) {
  const TensorView x = residual_.View(step.rows), h = normed_.View(step.rows);
  if (step.rows > 0) {
    kernels_.RmsNorm({.x = x, .w = w.ffn_norm, .y = h, .eps = loaded_->config().norm_eps},
                     step.stream);
  }
  if (w.moe) return moe_->Forward(*w.moe, *dense_, kernels_, step, h, x);
  if (step.rows > 0) dense_->Forward(*w.dense, kernels_, step, h, x);
  return {};
}

Status Transformer::Forward(const ModelBatch& batch, ExpertExchange* exchange,
                            const Stream& stream) {
  CheckBatch(batch);
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  StepContext step{
      batch, stream, exchange, rows,
      TensorView(static_cast<const void*>(positions_.Put(batch.positions)), DType::kI32, {rows})};
  const ModelWeights& w = loaded_->weights();
  if (rows > 0) {
    ExtendRopeTables(batch);
    const TensorView ids(static_cast<const void*>(tokens_.Put(batch.tokens)), DType::kI32, {rows});
    kernels_.Embedding({.ids = ids, .table = w.embedding, .y = residual_.View(rows)}, stream);
  }
  for (size_t l = 0; l < w.layers.size(); ++l) {
    if (rows > 0) Attention(l, step);
    CHOIR_RETURN_IF_ERROR(FeedForward(w.layers[l], step));
    if (w.layers[l].moe) ++step.moe_layer;
  }
  if (!batch.logit_rows.empty()) Logits(batch, stream);
  return {};
}

// Norms runs of neighbouring rows into dense ones, then one product with the head.
void Transformer::Logits(const ModelBatch& batch, const Stream& stream) const {
  const std::span<const int32_t> wanted = batch.logit_rows;
  const auto count = static_cast<int64_t>(wanted.size());
  const TensorView x = residual_.View(static_cast<int64_t>(batch.tokens.size()));
  const TensorView h = logit_rows_.View(count);
  const ModelWeights& w = loaded_->weights();
  for (int64_t begin = 0, end = 0; begin < count; begin = end) {
    const int32_t row = wanted[static_cast<size_t>(begin)];
    for (end = begin + 1; end < count && wanted[static_cast<size_t>(end)] == row + (end - begin);)
      ++end;
    kernels_.RmsNorm({.x = x.Rows(row, end - begin),
                      .w = w.final_norm,
                      .y = h.Rows(begin, end - begin),
                      .eps = loaded_->config().norm_eps},
                     stream);
  }
  kernels_.Linear({.x = h, .w = w.head, .y = batch.logits, .compute = loaded_->compute()}, stream);
}

const ExpertCounts& Transformer::expert_counts() const {
  static const ExpertCounts none;
  return moe_ ? moe_->counts() : none;
}

StatusOr<std::unique_ptr<Model>> MakeModel(std::shared_ptr<const LoadedModel> loaded,
                                           const KernelSet* kernels, const ModelLimits& limits) {
  // The only LoadedModel there is; a second architecture would choose here.
  auto transformer = std::dynamic_pointer_cast<const LoadedTransformer>(loaded);
  CHOIR_CHECK(transformer != nullptr);
  return Transformer::Make(std::move(transformer), kernels, limits);
}

}  // namespace choir
