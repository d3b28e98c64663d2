// llama: dense layers, grouped-query attention, half-split rope over whole heads.
#include "worker/model/families/family.h"

namespace choir {

void ReadLlama(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-6, c);
  RefuseWindow(r);
  c->dense_width = r->Int({"intermediate_size"}, 1, kWidthMax);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, kPositionsMax, 2048);
  c->ffn_bias = r->Bool({"mlp_bias"}, false);
  ReadGqa(r, {}, c);
  c->gqa->qkv_bias = c->gqa->o_bias = r->Bool({"attention_bias"}, false);
}

}  // namespace choir
