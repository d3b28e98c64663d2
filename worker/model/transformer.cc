#include "worker/model/transformer.h"

#include <algorithm>
#include <span>
#include <utility>

namespace choir {
namespace {

constexpr int64_t kRopeStep = 1024;  // positions that the rope tables grow by at least

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
  CHOIR_ASSIGN_OR_RETURN(inputs_, StepInputs::Make(device, limits_));
  graphs_ = StepGraphs(device, std::min(limits.graph_rows_max, limits.step_tokens),
                       limits_.positions_max);
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
  CHOIR_RETURN_IF_ERROR(MakeRoundedRoom(width));
  if (c.NumMoeLayers() > 0) {
    CHOIR_CHECK(limits.step_tokens_group >= limits.step_tokens && limits.expert_slots >= 1);
    CHOIR_ASSIGN_OR_RETURN(moe_, MoeFfn::Make(device, c, compute, limits));
  }
  if (loaded_->host_kernels() != nullptr) {
    CHOIR_RETURN_IF_ERROR(moe_->UseHost(device, loaded_->host_kernels(), limits));
  }
  return {};
}

// Weights of the first product of a layer's attention.
const TensorView& Transformer::FirstProduct(const LayerWeights& w) const {
  return w.gqa ? w.gqa->q.w : mla_->FirstProduct(*w.mla).w;
}

// ffn_width: the largest of dense and shared FFNs.
Status Transformer::MakeRoundedRoom(int64_t ffn_width) {
  const ModelConfig& c = loaded_->config();
  const TensorView& first = FirstProduct(loaded_->weights().layers[0]);
  if (kernels_.OrderOfRows(first.dtype(), first.dim(1), loaded_->compute()) == RowOrder::kNone)
    return {};
  int64_t width = std::max(c.hidden, ffn_width);
  if (c.mla) width = std::max({width, c.mla->q_lora, c.mla->heads * c.mla->v_dim});
  rounded_room_.pitch = (width + 7) / 8 * 8;
  const auto count = static_cast<size_t>(limits_.step_tokens * rounded_room_.pitch);
  CHOIR_ASSIGN_OR_RETURN(rounded_, loaded_->device().Allocate(count * sizeof(uint16_t)));
  rounded_room_.data = reinterpret_cast<uint16_t*>(rounded_.data());
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
  const TensorView x = residual_.View(step), h = normed_.View(step);
  const ProductInput normed{h, RoundedFor(FirstProduct(w), kernels_, step, loaded_->compute())};
  kernels_.RmsNorm(
      {.x = x, .w = w.attention_norm, .y = h, .eps = c.norm_eps, .rounded = normed.rounded},
      step.stream);
  if (gqa_) {
    const GqaLayer own{*w.gqa, kv, c.WindowOf(static_cast<int64_t>(layer))};
    gqa_->Forward(own, kernels_, step, normed, x);
  } else {
    mla_->Forward(*w.mla, kv, kernels_, step, normed, x);
  }
}

void Transformer::NormForFfn(const LayerWeights& w, const StepContext& step,
                             const ProductInput& normed) const {
  if (step.rows == 0) return;
  kernels_.RmsNorm({.x = residual_.View(step),
                    .w = w.ffn_norm,
                    .y = normed.x,
                    .eps = loaded_->config().norm_eps,
                    .rounded = normed.rounded},
                   step.stream);
}

Status Transformer::FeedForward(const LayerWeights& w, const StepContext& step) {
  const TensorView x = residual_.View(step);
  const TensorView first = w.moe ? moe_->FirstProduct(*w.moe, step) : w.dense->gate.w;
  const ProductInput normed{normed_.View(step),
                            RoundedFor(first, kernels_, step, loaded_->compute())};
  NormForFfn(w, step, normed);
  if (w.moe) return moe_->Forward(*w.moe, *dense_, kernels_, step, normed, x);
  if (step.rows > 0) dense_->Forward(*w.dense, kernels_, step, normed, x);
  return {};
}

// What a step needs besides its own values, and is not there yet.
void Transformer::Prepare(const ModelBatch& batch) {
  if (moe_) moe_->Prepare(*batch.experts);
  if (!batch.tokens.empty()) ExtendRopeTables(batch);
}

// Decode steps whose every value the device has, where nothing leaves this rank between layers.
GraphBucket Transformer::BucketOf(const ModelBatch& batch) const {
  const bool decode = batch.sequences.size() == batch.tokens.size();
  const bool stays = !moe_ || moe_->resident();
  if (batch.tokens.empty() || !decode || !stays || !inputs_.CanPad(batch)) return {};
  const int32_t longest = *std::max_element(batch.positions.begin(), batch.positions.end());
  return graphs_.BucketOf(static_cast<int64_t>(batch.tokens.size()), longest + 1);
}

Status Transformer::Forward(const ModelBatch& batch, ExpertExchange* exchange,
                            const Stream& stream) {
  CheckBatch(batch);
  Prepare(batch);
  const GraphBucket bucket = BucketOf(batch);
  std::span<ExpertExchange* const> micro_batches;
  if (moe_ && exchange != nullptr) micro_batches = exchange->MicroBatches();
  if (bucket.rows > 0) {
    CHOIR_RETURN_IF_ERROR(RunAsGraph(batch, bucket, stream));
  } else if (!micro_batches.empty()) {
    CHOIR_RETURN_IF_ERROR(RunMicroBatches(batch, micro_batches, stream));
  } else {
    const StepViews inputs = inputs_.Stage(batch);
    CHOIR_RETURN_IF_ERROR(RunLayers({.batch = batch,
                                     .stream = stream,
                                     .exchange = exchange,
                                     .inputs = inputs,
                                     .rows = inputs.rows,
                                     .rounded = rounded_room_}));
  }
  if (moe_) moe_->Finish();
  return {};
}

Status Transformer::RunAsGraph(const ModelBatch& batch, const GraphBucket& bucket,
                               const Stream& stream) {
  const StepViews inputs =
      inputs_.StagePadded(batch, bucket.rows, std::min(bucket.rows, limits_.logit_rows_max));
  const GraphMemory memory{.logits = batch.logits.raw(),
                           .kv = batch.kv[0].k.data.raw(),
                           .workspace = stream.workspace.data(),
                           .experts = batch.experts == nullptr ? 0 : batch.experts->serial};
  return graphs_.Run(bucket, memory, [&] {
    return RunLayers({.batch = batch,
                      .stream = stream,
                      .exchange = nullptr,
                      .inputs = inputs,
                      .rows = bucket.rows,
                      .keys_max = bucket.keys,
                      .rounded = rounded_room_});
  });
}

void Transformer::Embed(const StepContext& step) const {
  if (step.rows == 0) return;
  kernels_.Embedding(
      {.ids = step.inputs.tokens, .table = loaded_->weights().embedding, .y = residual_.View(step)},
      step.stream);
}

Status Transformer::RunLayers(StepContext step) {
  const ModelWeights& w = loaded_->weights();
  Embed(step);
  for (size_t l = 0; l < w.layers.size(); ++l) {
    if (step.rows > 0) Attention(l, step);
    CHOIR_RETURN_IF_ERROR(FeedForward(w.layers[l], step));
    if (w.layers[l].moe) ++step.moe_layer;
  }
  if (step.inputs.logit_rows.dim(0) > 0) Logits(step);
  return {};
}

// The first one's rows go to their experts while the second one's attention is computed, the
// second one's while the experts have the first one's, and so back. A sequence may be cut between
// them: in each layer the first has stored its keys before the second reads them.
Status Transformer::RunMicroBatches(const ModelBatch& batch,
                                    std::span<ExpertExchange* const> exchanges,
                                    const Stream& stream) {
  const MicroBatchViews inputs = inputs_.StageMicroBatches(batch);
  const auto of = [&](size_t p) {
    const StepViews& views = inputs.parts[p];
    return StepContext{.batch = batch,
                       .stream = stream,
                       .exchange = exchanges[p],
                       .inputs = views,
                       .rows = views.rows,
                       .first_row = p == 0 ? 0 : inputs.parts[0].rows,
                       .rounded = rounded_room_};
  };
  StepContext parts[] = {of(0), of(1)};
  for (const StepContext& part : parts) Embed(part);
  const size_t layers = loaded_->weights().layers.size();
  for (size_t l = 0; l < layers; ++l) {
    for (const StepContext& part : parts) CHOIR_RETURN_IF_ERROR(BeginLayer(l, part));
    const LayerWeights& w = loaded_->weights().layers[l];
    if (!w.moe) continue;
    for (StepContext& part : parts) {
      CHOIR_RETURN_IF_ERROR(moe_->RunRows(*w.moe, kernels_, part));
      ++part.moe_layer;
    }
  }
  for (const StepContext& part : parts) CHOIR_RETURN_IF_ERROR(EndLayer(layers - 1, part));
  const StepContext whole{.batch = batch,
                          .stream = stream,
                          .exchange = nullptr,
                          .inputs = inputs.whole,
                          .rows = inputs.whole.rows,
                          .rounded = rounded_room_};
  if (whole.inputs.logit_rows.dim(0) > 0) Logits(whole);
  return {};
}

// With the end of the layer before it, up to where rows go to their experts.
Status Transformer::BeginLayer(size_t layer, const StepContext& step) {
  if (layer > 0) CHOIR_RETURN_IF_ERROR(EndLayer(layer - 1, step));
  if (step.rows > 0) Attention(layer, step);
  const LayerWeights& w = loaded_->weights().layers[layer];
  if (!w.moe) return FeedForward(w, step);
  NormForFfn(w, step, {normed_.View(step), {}});
  return moe_->SendRows(*w.moe, kernels_, step, normed_.View(step));
}

Status Transformer::EndLayer(size_t layer, const StepContext& step) {
  const LayerWeights& w = loaded_->weights().layers[layer];
  if (!w.moe) return {};
  return moe_->SumOutputs(*w.moe, *dense_, kernels_, step, normed_.View(step),
                          residual_.View(step));
}

// Gathers the rows that are wanted, norms them, then one product with the head.
void Transformer::Logits(const StepContext& step) const {
  const TensorView& rows = step.inputs.logit_rows;
  const TensorView h = logit_rows_.View(rows.dim(0));
  const TensorView logits(step.batch.logits.raw(), DType::kF32,
                          {rows.dim(0), loaded_->info().vocab});
  const ModelWeights& w = loaded_->weights();
  kernels_.Embedding({.ids = rows, .table = residual_.View(step.rows), .y = h}, step.stream);
  const RoundedRows rounded = rows.dim(0) <= limits_.step_tokens
                                  ? RoundedFor(w.head, kernels_, step, loaded_->compute())
                                  : RoundedRows{};
  kernels_.RmsNorm(
      {.x = h, .w = w.final_norm, .y = h, .eps = loaded_->config().norm_eps, .rounded = rounded},
      step.stream);
  kernels_.Linear(
      {.x = h, .w = w.head, .y = logits, .compute = loaded_->compute(), .rounded = rounded},
      step.stream);
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
