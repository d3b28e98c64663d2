// The tensors of a llama GGUF under their Hugging Face names, in bfloat16, one at a time.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/tensor/dtype.h"
#include "tools/model/demo_text.h"
#include "tools/model/gguf.h"
#include "tools/model/safetensors_writer.h"

namespace choir {

class DenseWeights {
 public:
  DenseWeights(const Gguf& gguf, const DenseShape& shape) : gguf_(gguf), shape_(shape) {}

  // All tensors in file order; those of a layer's FFN only where `with_ffn(layer)`.
  template <typename WithFfn>
  std::vector<TensorSpec> Specs(WithFfn with_ffn) const {
    std::vector<TensorSpec> specs = {Spec("model.embed_tokens.weight"), Spec("model.norm.weight")};
    for (int64_t i = 0; i < shape_.layers; ++i) {
      for (const char* part : kLayerParts) specs.push_back(Spec(LayerName(i, part)));
      if (!with_ffn(i)) continue;
      for (const char* part : kFfnParts) specs.push_back(Spec(LayerName(i, part)));
    }
    return specs;
  }

  static std::string LayerName(int64_t layer, const std::string& part) {
    return fmt::format("model.layers.{}.{}.weight", layer, part);
  }

  // REQUIRES: a name of Specs.
  StatusOr<std::vector<bf16>> Get(const std::string& name) const;

 private:
  static constexpr const char* kLayerParts[] = {"input_layernorm",  "post_attention_layernorm",
                                                "self_attn.q_proj", "self_attn.k_proj",
                                                "self_attn.v_proj", "self_attn.o_proj"};
  static constexpr const char* kFfnParts[] = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};

  struct Origin {
    std::string gguf_name;
    std::vector<int64_t> shape;
    int64_t rotary_heads = 0;  // > 0: rows are in rotary pairs and go back to halves
  };
  Origin OriginOf(const std::string& name) const;
  TensorSpec Spec(const std::string& name) const {
    return {name, DType::kBF16, OriginOf(name).shape};
  }

  const Gguf& gguf_;
  const DenseShape shape_;
};

}  // namespace choir
