// gpt_oss: attention with a sink per head, windows in every other layer by default; every layer has
// experts, gated by a softmax over the chosen logits of a router with bias, with a clamped
// activation and biases of their own.
#include "worker/model/families/family.h"

namespace choir {
namespace {

// What the published config has, as transformers assumes it where the key is absent.
constexpr char kYarn[] = R"({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0,
  "beta_slow": 1.0, "truncate": false, "original_max_position_embeddings": 4096})";

std::vector<int64_t> ReadWindows(ConfigReader* r, int64_t layers) {
  const int64_t window =
      r->IsNull("sliding_window") ? 0 : r->Int({"sliding_window"}, 1, kPositionsMax, 128);
  if (r->Has("layer_types")) return ReadLayerTypes(r, window, layers, layers);
  std::vector<int64_t> windows(static_cast<size_t>(layers), 0);
  for (size_t l = 0; l < windows.size(); l += 2) windows[l] = window;
  return windows;
}

}  // namespace

void ReadGptOss(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-5, c);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, kPositionsMax, 131072);
  ReadGqa(r, {.kv_heads = 8, .head_dim = 64, .theta = 150000, .rope_scaling = kYarn}, c);
  c->gqa->qkv_bias = c->gqa->o_bias = r->Bool({"attention_bias"}, true);
  c->gqa->sinks = true;
  c->windows = ReadWindows(r, c->layers);
  MoeConfig m;
  m.experts = r->Int({"num_local_experts", "num_experts"}, 1, kExpertsMax, 128);
  m.top_k = r->Int({"num_experts_per_tok", "experts_per_token"}, 1, kTopKMax, 4);
  m.width = r->Int({"intermediate_size"}, 1, kWidthMax, 2880);
  m.layers.assign(static_cast<size_t>(c->layers), true);
  m.score = GateScore::kSoftmaxOfChosen;
  m.glu = {.kind = Glu::Kind::kClamped,
           .limit = static_cast<float>(r->Real({"swiglu_limit"}, 1e-6, 1e6, 7.0)),
           .alpha = static_cast<float>(r->Real({"swiglu_alpha"}, 1e-6, 1e6, 1.702))};
  CheckGate(r, m);
  if (c->quant.kind == QuantConfig::Kind::kMxfp4) {
    r->Check(c->hidden % kF4Block == 0, "hidden_size",
             fmt::format("{} is not a multiple of 32, as mxfp4 needs", c->hidden));
    r->Check(m.width % kF4Block == 0, "intermediate_size",
             fmt::format("{} is not a multiple of 32, as mxfp4 needs", m.width));
  }
  c->moe = m;
}

}  // namespace choir
