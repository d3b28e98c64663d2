// The weights of one model as the layers use them: views into mapped files or converted memory.
// Which of the optionals are set follows the config.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "common/tensor/tensor_view.h"
#include "kernels/ops/moe.h"

namespace choir {

struct LinearWeights {
  TensorView w;      // [N, K]
  TensorView scale;  // LinearArgs::w_scale
  TensorView bias;   // [N] or empty
};

struct GqaWeights {
  LinearWeights q, k, v, o;
  TensorView q_norm, k_norm;  // [head_dim] or empty
  TensorView sinks;           // [heads] f32 or empty
};

struct MlaWeights {
  LinearWeights q_a;     // empty without q_lora
  TensorView q_a_norm;   // [q_lora]
  LinearWeights q;       // from q_lora or hidden to [heads * (nope + rope)]
  LinearWeights kv_a;    // [kv_lora + rope, hidden]
  TensorView kv_a_norm;  // [kv_lora]
  TensorView kv_b;       // [heads * (nope + v_dim), kv_lora]
  LinearWeights o;
};

struct FfnWeights {
  LinearWeights gate, up, down;
};

struct MoeWeights {
  TensorView router;           // [experts, hidden]
  TensorView router_bias;      // [experts] or empty
  TensorView correction_bias;  // [experts] f32, or empty
  std::optional<FfnWeights> shared;
  std::vector<ExpertWeights>
      experts;               // all of the model; views of experts that were not kept are empty
  bool input_major = false;  // ExpertFfnArgs::input_major
};

struct LayerWeights {
  TensorView attention_norm, ffn_norm;  // [hidden]
  std::optional<GqaWeights> gqa;
  std::optional<MlaWeights> mla;
  std::optional<FfnWeights> dense;
  std::optional<MoeWeights> moe;
};

struct ModelWeights {
  TensorView embedding;   // [vocab, hidden]
  TensorView final_norm;  // [hidden]
  TensorView head;        // [vocab, hidden]; the embedding when tied
  std::vector<LayerWeights> layers;
};

}  // namespace choir
