// mixtral: every layer has experts, gated by a softmax whose chosen scores are normalized; a
// sliding window, where there is one, is every layer's.
#include "worker/model/families/family.h"

namespace choir {

void ReadMixtral(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-5, c);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, kPositionsMax, 131072);
  ReadGqa(r, {.kv_heads = 8, .theta = 1e6}, c);
  const int64_t window = r->Int({"sliding_window"}, 1, kPositionsMax, 0);
  c->windows.assign(static_cast<size_t>(c->layers), window);
  MoeConfig m;
  m.experts = r->Int({"num_local_experts", "num_experts"}, 1, kExpertsMax, 8);
  m.top_k = r->Int({"num_experts_per_tok"}, 1, kTopKMax, 2);
  m.width = r->Int({"intermediate_size"}, 1, kWidthMax, 14336);
  m.layers.assign(static_cast<size_t>(c->layers), true);
  m.score = GateScore::kSoftmax;
  m.normalize = true;
  CheckGate(r, m);
  c->moe = m;
}

}  // namespace choir
