#include "tools/model/tensor_plan.h"

#include "kernels/ops/linear.h"

namespace choir {
namespace {

class Planner {
 public:
  Planner(const ModelConfig& config, const WeightNames& names, size_t most)
      : c_(config), n_(names), most_(most) {}

  std::vector<PlannedTensor> All() {
    Add(std::string(n_.embedding), {c_.vocab, c_.hidden}, TensorRole::kEmbedding);
    for (layer_ = 0; layer_ < c_.layers && !TooMany(); ++layer_) Layer();
    Add(std::string(n_.final_norm), {c_.hidden}, TensorRole::kNorm);
    if (!c_.tied_head) Add(std::string(n_.head), {c_.vocab, c_.hidden}, TensorRole::kHead);
    return std::move(plan_);
  }

 private:
  bool TooMany() const { return plan_.size() > most_; }
  void Add(std::string name, std::vector<int64_t> shape, TensorRole role, bool routed = false) {
    plan_.push_back({std::move(name), std::move(shape), role, routed});
  }
  std::string Name(std::string_view pattern, int64_t expert = 0) const {
    return TensorName(pattern, layer_, expert);
  }
  void Matrix(const std::string& module, int64_t out, int64_t in, TensorRole role,
              bool routed = false) {
    Add(module + ".weight", {out, in}, role, routed);
    if (c_.quant.kind != QuantConfig::Kind::kFp8) return;
    plan_.back().dtype = DType::kF8E4M3;
    const auto blocks = [](int64_t n) { return (n + kF8Block - 1) / kF8Block; };
    Add(module + ".weight_scale_inv", {blocks(out), blocks(in)}, TensorRole::kF8Scale, routed);
    plan_.back().dtype = DType::kF32;
  }
  void Norm(std::string_view pattern, int64_t size) {
    Add(Name(pattern) + ".weight", {size}, TensorRole::kNorm);
  }
  void Linear(std::string_view pattern, int64_t out, int64_t in, bool bias,
              TensorRole role = TensorRole::kInput) {
    Matrix(Name(pattern), out, in, role);
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
    if (a.sinks) Add(Name(n_.sinks), {a.heads}, TensorRole::kBias);
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
    if (!n_.stacked_gate_up.empty()) {
      Add(Name(n_.router) + ".bias", {m.experts}, TensorRole::kBias);
      Stacked(Name(n_.stacked_gate_up), 2 * m.width, c_.hidden, TensorRole::kInput);
      Stacked(Name(n_.stacked_down), c_.hidden, m.width, TensorRole::kOutput);
      return;
    }
    for (int64_t e = 0; e < m.experts && !TooMany(); ++e) {
      Matrix(Name(n_.expert_gate, e), m.width, c_.hidden, TensorRole::kInput, true);
      Matrix(Name(n_.expert_up, e), m.width, c_.hidden, TensorRole::kInput, true);
      Matrix(Name(n_.expert_down, e), c_.hidden, m.width, TensorRole::kOutput, true);
    }
  }

  // The experts of a layer in one tensor.
  void Stacked(const std::string& name, int64_t out, int64_t in, TensorRole role) {
    const int64_t experts = c_.moe->experts;
    if (c_.quant.kind == QuantConfig::Kind::kMxfp4) {
      const int64_t groups = in / kF4Block;
      Add(name + "_blocks", {experts, out, groups, kF4Block / 2}, TensorRole::kF4Codes, true);
      plan_.back().dtype = DType::kU8;
      const bool input = role == TensorRole::kInput;
      Add(name + "_scales", {experts, out, groups},
          input ? TensorRole::kF4InputScale : TensorRole::kF4OutputScale, true);
      plan_.back().dtype = DType::kU8;
    } else {
      Add(name, {experts, in, out}, role, true);
    }
    Add(name + "_bias", {experts, out}, TensorRole::kBias, true);
  }

  const ModelConfig& c_;
  const WeightNames& n_;
  const size_t most_;
  std::vector<PlannedTensor> plan_;
  int64_t layer_ = 0;
};

}  // namespace

int64_t PlannedTensor::num_elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

int64_t PlannedTensor::parameters() const {
  if (role == TensorRole::kF8Scale || role == TensorRole::kF4InputScale ||
      role == TensorRole::kF4OutputScale) {
    return 0;
  }
  return role == TensorRole::kF4Codes ? 2 * num_elements() : num_elements();
}

std::vector<PlannedTensor> PlanTensors(const ModelConfig& config, const WeightNames& names,
                                       size_t most) {
  return Planner(config, names, most).All();
}

ParameterCount CountParameters(const ModelConfig& config, const std::vector<PlannedTensor>& plan) {
  ParameterCount count;
  int64_t routed = 0;
  for (const PlannedTensor& t : plan) {
    count.total += t.parameters();
    if (t.routed) {
      routed += t.parameters();
    } else if (t.role != TensorRole::kEmbedding || config.tied_head) {
      count.active += t.parameters();
    }
  }
  if (config.moe) count.active += routed / config.moe->experts * config.moe->top_k;
  return count;
}

}  // namespace choir
