#include "tools/model/tensor_plan.h"

namespace choir {
namespace {

class Planner {
 public:
  Planner(const ModelConfig& config, const WeightNames& names) : c_(config), n_(names) {}

  std::vector<PlannedTensor> All() {
    Add(std::string(n_.embedding), {c_.vocab, c_.hidden}, TensorRole::kEmbedding);
    for (layer_ = 0; layer_ < c_.layers; ++layer_) Layer();
    Add(std::string(n_.final_norm), {c_.hidden}, TensorRole::kNorm);
    if (!c_.tied_head) Add(std::string(n_.head), {c_.vocab, c_.hidden}, TensorRole::kHead);
    return std::move(plan_);
  }

 private:
  void Add(std::string name, std::vector<int64_t> shape, TensorRole role, bool routed = false) {
    plan_.push_back({std::move(name), std::move(shape), role, routed});
  }
  std::string Name(std::string_view pattern, int64_t expert = 0) const {
    return TensorName(pattern, layer_, expert);
  }
  void Norm(std::string_view pattern, int64_t size) {
    Add(Name(pattern) + ".weight", {size}, TensorRole::kNorm);
  }
  void Linear(std::string_view pattern, int64_t out, int64_t in, bool bias,
              TensorRole role = TensorRole::kInput) {
    Add(Name(pattern) + ".weight", {out, in}, role);
    if (bias) Add(Name(pattern) + ".bias", {out}, TensorRole::kBias);
  }

  void Layer() {
    Norm(n_.attention_norm, c_.hidden);
    if (c_.gqa) Gqa(*c_.gqa);
    if (c_.mla) Mla(*c_.mla);
    Norm(n_.ffn_norm, c_.hidden);
    if (c_.IsMoe(layer_)) {
      Moe(*c_.moe);
    } else {
      Ffn(n_.gate, n_.up, n_.down, c_.dense_width);
    }
  }

  void Gqa(const GqaConfig& a) {
    Linear(n_.q, a.heads * a.head_dim, c_.hidden, a.qkv_bias);
    Linear(n_.k, a.kv_heads * a.head_dim, c_.hidden, a.qkv_bias);
    Linear(n_.v, a.kv_heads * a.head_dim, c_.hidden, a.qkv_bias);
    Linear(n_.o, c_.hidden, a.heads * a.head_dim, a.o_bias, TensorRole::kOutput);
    if (!a.qk_norm) return;
    Norm(n_.q_norm, a.head_dim);
    Norm(n_.k_norm, a.head_dim);
  }

  void Mla(const MlaConfig& a) {
    const int64_t q = a.heads * (a.nope + a.rope);
    if (a.q_lora > 0) {
      Linear(n_.q_a, a.q_lora, c_.hidden, a.bias);
      Norm(n_.q_a_norm, a.q_lora);
      Linear(n_.q_b, q, a.q_lora, false);
    } else {
      Linear(n_.q, q, c_.hidden, false);
    }
    Linear(n_.kv_a, a.kv_lora + a.rope, c_.hidden, a.bias);
    Norm(n_.kv_a_norm, a.kv_lora);
    Linear(n_.kv_b, a.heads * (a.nope + a.v_dim), a.kv_lora, false);
    Linear(n_.o, c_.hidden, a.heads * a.v_dim, a.bias, TensorRole::kOutput);
  }

  void Ffn(std::string_view gate, std::string_view up, std::string_view down, int64_t width) {
    Linear(gate, width, c_.hidden, c_.ffn_bias);
    Linear(up, width, c_.hidden, c_.ffn_bias);
    Linear(down, c_.hidden, width, c_.ffn_bias, TensorRole::kOutput);
  }

  void Moe(const MoeConfig& m) {
    Add(Name(n_.router) + ".weight", {m.experts, c_.hidden}, TensorRole::kRouter);
    if (m.correction_bias) {
      Add(Name(n_.correction_bias), {m.experts}, TensorRole::kCorrectionBias);
    }
    if (m.shared_width > 0) Ffn(n_.shared_gate, n_.shared_up, n_.shared_down, m.shared_width);
    for (int64_t e = 0; e < m.experts; ++e) {
      Add(Name(n_.expert_gate, e) + ".weight", {m.width, c_.hidden}, TensorRole::kInput, true);
      Add(Name(n_.expert_up, e) + ".weight", {m.width, c_.hidden}, TensorRole::kInput, true);
      Add(Name(n_.expert_down, e) + ".weight", {c_.hidden, m.width}, TensorRole::kOutput, true);
    }
  }

  const ModelConfig& c_;
  const WeightNames& n_;
  std::vector<PlannedTensor> plan_;
  int64_t layer_ = 0;
};

}  // namespace

int64_t PlannedTensor::num_elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

std::vector<PlannedTensor> PlanTensors(const ModelConfig& config, const WeightNames& names) {
  return Planner(config, names).All();
}

ParameterCount CountParameters(const ModelConfig& config, const std::vector<PlannedTensor>& plan) {
  ParameterCount count;
  int64_t routed = 0;
  for (const PlannedTensor& t : plan) {
    count.total += t.num_elements();
    if (t.routed) {
      routed += t.num_elements();
    } else if (t.role != TensorRole::kEmbedding || config.tied_head) {
      count.active += t.num_elements();
    }
  }
  if (config.moe) count.active += routed / config.moe->experts * config.moe->top_k;
  return count;
}

}  // namespace choir
