// What a family's config.json says, validated: plain values that the layers are wired from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "kernels/ops/moe.h"
#include "worker/model/config/quant_config.h"
#include "worker/model/config/rope.h"

namespace choir {

struct GqaConfig {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  bool qkv_bias = false, o_bias = false;
  bool qk_norm = false;  // RMS norm over each head's q and k before rope
  bool sinks = false;    // PagedAttentionArgs::sinks
};

struct MlaConfig {
  int64_t heads = 0;
  int64_t q_lora = 0;  // 0: q comes from one matrix
  int64_t kv_lora = 0, nope = 0, rope = 0, v_dim = 0;
  bool bias = false;  // on q_a, kv_a and o
};

struct MoeConfig {
  int64_t experts = 0, top_k = 0;
  int64_t width = 0;         // of one expert
  int64_t shared_width = 0;  // of all shared experts together; 0: none
  std::vector<bool> layers;  // by layer: true where experts are, false where a dense FFN is
  bool correction_bias = false;
  GateScore score = GateScore::kSoftmax;
  GroupScore group_score = GroupScore::kBest;
  int32_t num_groups = 1, groups_kept = 1;
  bool masked_score_is_zero = false;
  bool normalize = false;
  float scaling = 1.0f;
  Glu glu;
  bool f8_rows = false;  // not of the file: LoadOptions::f8_rows
};

struct ModelConfig {
  std::string family;
  int64_t vocab = 0, hidden = 0, layers = 0;
  int64_t prediction_layers_max = 0;  // MTP layers that may follow in the files; never run
  int64_t dense_width = 0;            // FFN of dense layers
  bool ffn_bias = false;              // on dense and shared FFNs
  int64_t positions_max = 0;
  float norm_eps = 1e-6f;
  bool tied_head = false;
  RopeConfig rope;
  float softmax_scale = 1.0f;
  std::vector<int64_t> windows;  // by layer: PagedAttentionArgs::window; empty: no layer slides
  std::optional<GqaConfig> gqa;  // exactly one of gqa and mla
  std::optional<MlaConfig> mla;
  std::optional<MoeConfig> moe;
  QuantConfig quant;
  std::vector<int32_t> eos_ids;

  bool IsMoe(int64_t layer) const { return moe && moe->layers[static_cast<size_t>(layer)]; }
  int64_t NumMoeLayers() const {
    return moe ? std::count(moe->layers.begin(), moe->layers.end(), true) : 0;
  }
  int64_t WindowOf(int64_t layer) const {
    return windows.empty() ? 0 : windows[static_cast<size_t>(layer)];
  }
};

// Reads DIR/config.json and DIR/generation_config.json. InvalidArgument names file, key and value
// for everything that is unknown, out of range or not implemented.
StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir);

}  // namespace choir
