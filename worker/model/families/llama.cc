// llama: dense layers, grouped-query attention, half-split rope over whole heads.
#include <cmath>

#include "worker/model/families/family.h"

namespace choir {

void ReadLlama(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-6, c);
  c->dense_width = r->Int({"intermediate_size"}, 1, int64_t{1} << 22);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, int64_t{1} << 30, 2048);
  c->ffn_bias = r->Bool({"mlp_bias"}, false);
  GqaConfig gqa;
  gqa.heads = r->Int({"num_attention_heads"}, 1, 65536);
  gqa.kv_heads = r->Int({"num_key_value_heads"}, 1, 65536, gqa.heads);
  if (!r->Has("head_dim")) {
    r->Check(c->hidden % gqa.heads == 0, "num_attention_heads",
             fmt::format("{} does not divide hidden_size {} and there is no head_dim", gqa.heads,
                         c->hidden));
  }
  gqa.head_dim = r->Int({"head_dim"}, 1, 65536, std::max<int64_t>(c->hidden / gqa.heads, 1));
  r->Check(gqa.heads % gqa.kv_heads == 0, "num_key_value_heads",
           fmt::format("{} does not divide num_attention_heads {}", gqa.kv_heads, gqa.heads));
  gqa.qkv_bias = gqa.o_bias = r->Bool({"attention_bias"}, false);
  c->rope = ReadRope(r, gqa.head_dim, 1.0);
  r->Check(!r->status().ok() || c->rope.rotary_dim == gqa.head_dim, "partial_rotary_factor",
           "must be 1 for this family");
  c->softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(gqa.head_dim)));
  c->gqa = gqa;
}

}  // namespace choir
