// qwen2: as llama, with biases on q, k and v. qwen3: norms on q and k instead. qwen3_moe: qwen3
// with experts in some or all layers, gated by a softmax. A sliding window, which these families
// have behind a switch, is that of the later layers of the dense two and of every layer of
// qwen3_moe.
#include <algorithm>

#include "worker/model/families/family.h"

namespace choir {
namespace {

// 0: attention is full.
int64_t ReadWindow(ConfigReader* r) {
  if (!r->Bool({"use_sliding_window"}, false) || r->IsNull("sliding_window")) return 0;
  return r->Int({"sliding_window"}, 1, kPositionsMax, 4096);
}

void ReadDense(ConfigReader* r, ModelConfig* c) {
  c->dense_width = r->Int({"intermediate_size"}, 1, kWidthMax);
  const int64_t first_sliding = r->Int({"max_window_layers"}, 0, kLayersMax, 28);
  c->windows = ReadLayerTypes(r, ReadWindow(r), first_sliding, c->layers);
}

// Every decoder_sparse_step-th layer has experts, but for mlp_only_layers.
std::vector<bool> ReadMoeLayers(ConfigReader* r, int64_t layers) {
  const int64_t step = r->Int({"decoder_sparse_step"}, 1, kLayersMax, 1);
  const std::vector<int64_t> dense = r->Ints("mlp_only_layers", 0, kLayersMax);
  std::vector<bool> moe;
  for (int64_t l = 0; l < layers; ++l) {
    moe.push_back((l + 1) % step == 0 && std::find(dense.begin(), dense.end(), l) == dense.end());
  }
  return moe;
}

}  // namespace

void ReadQwen2(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-6, c);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, kPositionsMax, 32768);
  ReadGqa(r, {}, c);
  c->gqa->qkv_bias = true;
  ReadDense(r, c);
}

void ReadQwen3(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-6, c);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, kPositionsMax, 32768);
  ReadGqa(r, {.head_dim = 128}, c);
  c->gqa->qkv_bias = c->gqa->o_bias = r->Bool({"attention_bias"}, false);
  c->gqa->qk_norm = true;
  ReadDense(r, c);
}

void ReadQwen3Moe(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-6, c);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, kPositionsMax, 32768);
  ReadGqa(r, {.kv_heads = 4}, c);
  c->gqa->qkv_bias = c->gqa->o_bias = r->Bool({"attention_bias"}, false);
  c->gqa->qk_norm = true;
  c->dense_width = r->Int({"intermediate_size"}, 1, kWidthMax, 6144);
  c->windows.assign(static_cast<size_t>(c->layers), ReadWindow(r));
  MoeConfig m;
  m.experts = r->Int({"num_experts", "num_local_experts"}, 1, kExpertsMax, 128);
  m.top_k = r->Int({"num_experts_per_tok"}, 1, kTopKMax, 8);
  m.width = r->Int({"moe_intermediate_size"}, 1, kWidthMax, 768);
  m.layers = ReadMoeLayers(r, c->layers);
  m.score = GateScore::kSoftmax;
  m.normalize = r->Bool({"norm_topk_prob"}, false);
  CheckGate(r, m);
  c->moe = m;
}

}  // namespace choir
