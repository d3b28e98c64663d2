// A model without weights for tests of the engine: the logits of a token are a hash of all tokens
// of its sequence, read back from the KV pool through the block table. So a wrong slot, a block
// that two sequences share or a row in the wrong place changes the tokens. With experts it sends
// every row through the exchange and checks what comes back.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "worker/engine/sampler.h"
#include "worker/engine/types.h"
#include "worker/model/model.h"

namespace choir {

struct FakeModelOptions {
  int64_t vocab = 50;
  int64_t context_length = 4096;
  int32_t num_experts = 0;
  int32_t busy_experts = 0;  // rows choose among the first so many only; 0: among all
  bool kv_by_role = false;
  // Called when experts are to move; an error ends the attempt.
  std::function<Status(int32_t rank, const std::stop_token& stop)> on_place;
};

inline uint64_t FakeHash(uint64_t h, uint64_t value) {
  h ^= value + 0x9e3779b97f4a7c15 + (h << 6) + (h >> 2);
  h *= 0xff51afd7ed558ccd;
  return h ^ (h >> 33);
}

inline void FakeLogits(uint64_t history, std::span<float> logits) {
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(FakeHash(history, i) >> 40) * 0x1p-21f;  // [0, 8)
  }
}

// What an engine has to answer: the tokens generated after request.tokens[0, num_prompt).
inline std::vector<int32_t> FakeAnswer(const SequenceRequest& request,
                                       const FakeModelOptions& options = {}) {
  Sampler sampler(options.vocab);
  std::vector<float> logits(static_cast<size_t>(options.vocab));
  std::vector<int32_t> answer;
  TokenCounts counts;
  uint64_t history = 0;
  for (int32_t i = 0; i < request.num_prompt; ++i) {
    history = FakeHash(history, static_cast<uint64_t>(request.tokens[static_cast<size_t>(i)]));
  }
  while (static_cast<int32_t>(answer.size()) < request.max_tokens &&
         request.num_prompt + static_cast<int64_t>(answer.size()) < options.context_length) {
    FakeLogits(history, logits);
    const int32_t id = sampler.Sample(logits, request.sampling, &counts, answer.size()).id;
    answer.push_back(id);
    ++counts[id];
    history = FakeHash(history, static_cast<uint64_t>(id));
    for (const int32_t stop : request.stop_token_ids) {
      if (id == stop) return answer;
    }
  }
  return answer;
}

class FakeLoadedModel final : public LoadedModel {
 public:
  explicit FakeLoadedModel(const FakeModelOptions& options) : options_(options) {
    info_.family = "fake";
    info_.vocab = options.vocab;
    info_.hidden = 3;
    info_.layers = 2;
    info_.context_length = options.context_length;
    info_.num_experts = options.num_experts;
    info_.top_k = options.num_experts > 0 ? 2 : 0;
    info_.expert_layers = options.num_experts > 0 ? 1 : 0;
  }
  const ModelInfo& info() const override { return info_; }
  KvLayout kv_layout() const override {
    KvLayout layout;
    layout.layers = {{LayerKv::Kind::kKeysValues, 1, 1, 0}, {LayerKv::Kind::kLatent, 2, 0, 0}};
    layout.by_role = options_.kv_by_role;
    return layout;
  }
  Compute compute() const override { return Compute::kF32; }
  const std::string& numerics_id() const override { return numerics_id_; }
  StatusOr<std::shared_ptr<const PlacedExperts>> PlaceExperts(
      std::vector<ExpertPlacement> layers, int32_t rank, const PlacedExperts* before,
      const std::stop_token& stop) const override {
    const bool moves = layers != FirstPlacement(info_, layers.at(0).num_ranks());
    if (moves && options_.on_place) CHOIR_RETURN_IF_ERROR(options_.on_place(rank, stop));
    return LoadedModel::PlaceExperts(std::move(layers), rank, before, stop);
  }
  const FakeModelOptions& options() const { return options_; }

 private:
  const FakeModelOptions options_;
  ModelInfo info_;
  std::string numerics_id_ = "fake";
};

class FakeModel final : public Model {
 public:
  // Called on the owner thread at the begin of every Forward.
  using Hook = std::function<void(const ModelBatch&)>;

  explicit FakeModel(const FakeModelOptions& options, Hook hook = {})
      : loaded_(options), hook_(std::move(hook)) {
    if (options.num_experts == 0) return;
    expert_counts_ = {.layers = {1}, .num_experts = options.num_experts};
    expert_counts_.rows.resize(static_cast<size_t>(options.num_experts));
  }

  const LoadedModel& loaded() const override { return loaded_; }

  Status Forward(const ModelBatch& batch, ExpertExchange* exchange, const Stream&) override {
    if (hook_) hook_(batch);
    for (size_t row = 0; row < batch.tokens.size(); ++row) {
      Cell(batch.kv[0].k, batch.slots[row]) = static_cast<float>(batch.tokens[row]);
      Cell(batch.kv[0].v, batch.slots[row]) = static_cast<float>(batch.positions[row]);
    }
    if (loaded_.info().num_experts > 0) CHOIR_RETURN_IF_ERROR(UseExperts(batch, exchange));
    size_t out = 0;
    for (const AttentionSequence& s : batch.sequences) {
      for (int32_t row = s.row_begin; row < s.row_begin + s.row_count; ++row) {
        if (out == batch.logit_rows.size() || batch.logit_rows[out] != row) continue;
        const size_t vocab = static_cast<size_t>(loaded_.info().vocab);
        const uint64_t history = History(batch, s, s.first_position + row - s.row_begin);
        FakeLogits(history, {batch.logits.f32() + out * vocab, vocab});
        ++out;
      }
    }
    CHOIR_CHECK(out == batch.logit_rows.size());
    return absl::OkStatus();
  }

  const ExpertCounts& expert_counts() const override { return expert_counts_; }

 private:
  static float& Cell(const KvView& view, int64_t slot) {
    CHOIR_CHECK(slot >= 0 && slot < view.data.dim(0) * view.data.dim(1));
    return view.data.f32()[slot * view.width()];
  }

  static uint64_t History(const ModelBatch& batch, const AttentionSequence& s, int32_t last) {
    const LayerKvView& kv = batch.kv[0];
    const int64_t block_tokens = kv.k.block_tokens();
    uint64_t history = 0;
    for (int32_t p = 0; p <= last; ++p) {
      const int64_t slot =
          int64_t{s.block_table[p / block_tokens]} * block_tokens + p % block_tokens;
      CHOIR_CHECK(Cell(kv.v, slot) == static_cast<float>(p));
      history = FakeHash(history, static_cast<uint64_t>(Cell(kv.k, slot)));
    }
    return history;
  }

  Status UseExperts(const ModelBatch& batch, ExpertExchange* exchange) {
    const int64_t rows = static_cast<int64_t>(batch.tokens.size());
    const int64_t hidden = loaded_.info().hidden;
    std::vector<float> x(static_cast<size_t>(rows * hidden));
    std::vector<int32_t> ids;
    const FakeModelOptions& options = loaded_.options();
    const int32_t used = options.busy_experts > 0 ? options.busy_experts : options.num_experts;
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t token = batch.tokens[static_cast<size_t>(r)];
      x[static_cast<size_t>(r * hidden)] = static_cast<float>(token);
      const int32_t first = token % (used - 1);
      ids.push_back(first);
      ids.push_back(first + 1);
    }
    auto dispatched = exchange->Dispatch(
        batch.experts->layers.at(0), TensorView(x.data(), DType::kF32, {rows, hidden}),
        TensorView(ids.data(), DType::kI32, {rows, 2}), DType::kF32);
    CHOIR_RETURN_IF_ERROR(dispatched.status());
    const int64_t received = dispatched->offsets.back();
    std::vector<float> y(static_cast<size_t>(received * hidden));
    for (size_t e = 0; e + 1 < dispatched->offsets.size(); ++e) {
      const int32_t id = dispatched->experts[e];
      const float expert = static_cast<float>(id);
      expert_counts_.rows[static_cast<size_t>(id)] +=
          static_cast<uint64_t>(dispatched->offsets[e + 1] - dispatched->offsets[e]);
      for (int64_t r = dispatched->offsets[e]; r < dispatched->offsets[e + 1]; ++r) {
        const float token = dispatched->x.f32()[r * hidden];
        y[static_cast<size_t>(r * hidden)] = token * 1000.0f + expert;
      }
    }
    std::vector<float> back(static_cast<size_t>(rows * 2 * hidden));
    CHOIR_RETURN_IF_ERROR(
        exchange->Combine(TensorView(y.data(), DType::kF32, {received, hidden}),
                          TensorView(back.data(), DType::kF32, {rows * 2, hidden})));
    for (int64_t r = 0; r < rows * 2; ++r) {
      const float token = static_cast<float>(batch.tokens[static_cast<size_t>(r / 2)]);
      CHOIR_CHECK(back[static_cast<size_t>(r * hidden)] ==
                  token * 1000.0f + static_cast<float>(ids[static_cast<size_t>(r)]));
    }
    return absl::OkStatus();
  }

  FakeLoadedModel loaded_;
  ExpertCounts expert_counts_;
  const Hook hook_;
};

}  // namespace choir
