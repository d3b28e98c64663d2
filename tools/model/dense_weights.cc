#include "tools/model/dense_weights.h"

#include "common/base/check.h"

namespace choir {

DenseWeights::Origin DenseWeights::OriginOf(const std::string& name) const {
  const DenseShape& s = shape_;
  if (name == "model.embed_tokens.weight") return {"token_embd.weight", {s.vocab, s.hidden}};
  if (name == "model.norm.weight") return {"output_norm.weight", {s.hidden}};
  const int64_t q = s.heads * s.head_dim;
  const int64_t kv = s.kv_heads * s.head_dim;
  const struct {
    const char* part;
    const char* gguf_part;
    std::vector<int64_t> shape;
    int64_t rotary_heads;
  } rows[] = {{"input_layernorm", "attn_norm", {s.hidden}, 0},
              {"post_attention_layernorm", "ffn_norm", {s.hidden}, 0},
              {"self_attn.q_proj", "attn_q", {q, s.hidden}, s.heads},
              {"self_attn.k_proj", "attn_k", {kv, s.hidden}, s.kv_heads},
              {"self_attn.v_proj", "attn_v", {kv, s.hidden}, 0},
              {"self_attn.o_proj", "attn_output", {s.hidden, q}, 0},
              {"mlp.gate_proj", "ffn_gate", {s.ffn, s.hidden}, 0},
              {"mlp.up_proj", "ffn_up", {s.ffn, s.hidden}, 0},
              {"mlp.down_proj", "ffn_down", {s.hidden, s.ffn}, 0}};
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    if (!name.starts_with(prefix)) continue;
    for (const auto& row : rows) {
      if (name != LayerName(layer, row.part)) continue;
      return {fmt::format("blk.{}.{}.weight", layer, row.gguf_part), row.shape, row.rotary_heads};
    }
  }
  CHOIR_CHECK(false);
}

StatusOr<std::vector<bf16>> DenseWeights::Get(const std::string& name) const {
  const Origin origin = OriginOf(name);
  CHOIR_ASSIGN_OR_RETURN(const GgufTensor* tensor, gguf_.Tensor(origin.gguf_name, origin.shape));
  const std::vector<float> values = Dequantize(*tensor);
  std::vector<bf16> out(values.size());
  if (origin.rotary_heads == 0) {
    for (size_t i = 0; i < values.size(); ++i) out[i] = ToBF16(values[i]);
    return out;
  }
  // llama.cpp keeps a head's rows in the pairs that are rotated together, (0,1), (2,3), ..; Hugging
  // Face keeps the first members of all pairs, then the second ones.
  const auto columns = static_cast<size_t>(origin.shape[1]);
  const auto head_rows = static_cast<size_t>(origin.shape[0] / origin.rotary_heads);
  const size_t half = head_rows / 2;
  for (size_t row = 0; row < static_cast<size_t>(origin.shape[0]); ++row) {
    const size_t head = row / head_rows;
    const size_t within = row % head_rows;
    const size_t from = head * head_rows + within % half * 2 + within / half;
    for (size_t c = 0; c < columns; ++c)
      out[row * columns + c] = ToBF16(values[from * columns + c]);
  }
  return out;
}

}  // namespace choir
