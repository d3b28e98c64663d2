#include "worker/model/weights/bind_weights.h"

#include <charconv>
#include <system_error>

namespace choir {
namespace {

class Binder {
 public:
  Binder(const ModelConfig& config, const WeightNames& names, ExpertRange own, WeightStore* store,
         const HostExperts& host)
      : c_(config),
        n_(names),
        own_(own),
        host_(host),
        store_(*store),
        matrices_(config.quant, store) {}

  ModelWeights All() {
    CheckLayerCount();
    ModelWeights w;
    const std::string embedding(n_.embedding), head(n_.head);
    const bool has_embedding = Has(embedding), has_head = Has(head);
    // As transformers ties: whichever of the two is there serves as both; two different ones stay
    // two.
    const bool own_head =
        !c_.tied_head || (has_embedding && has_head && !store_.SameContent(embedding, head));
    const bool head_only = c_.tied_head && has_head && !has_embedding;
    w.embedding = store_.Matrix(head_only ? head : embedding, {c_.vocab, c_.hidden});
    w.final_norm = store_.Vector(std::string(n_.final_norm), c_.hidden);
    w.head = own_head ? store_.Matrix(head, {c_.vocab, c_.hidden}) : w.embedding;
    for (layer_ = 0; layer_ < c_.layers && store_.status().ok(); ++layer_) {
      w.layers.push_back(Layer());
    }
    return w;
  }

  ExpertWeights One(int64_t layer, int64_t expert) {
    layer_ = layer;
    if (n_.stacked_gate_up.empty()) return Expert(*c_.moe, expert);
    MoeWeights w;
    StackedExperts(*c_.moe, &w);
    return store_.status().ok() ? w.experts[static_cast<size_t>(expert)] : ExpertWeights();
  }

 private:
  std::string Name(std::string_view pattern, int64_t expert = 0) const {
    return TensorName(pattern, layer_, expert);
  }
  bool Has(const std::string& name) const { return store_.files().Find(name) != nullptr; }

  // A tensor that would change the result, had the config not left it out.
  void MustBeAbsent(const std::string& name) {
    if (!Has(name)) return;
    store_.Fail(name,
                "is there, but config.json says there is none; config and weights are of "
                "different models");
  }

  // Prediction layers (MTP) follow the model's own; more than those mean another model's config.
  void CheckLayerCount() {
    const std::string_view pattern = n_.attention_norm;
    const size_t at = pattern.find("{layer}");
    const std::string_view before = pattern.substr(0, at);
    for (const StoredTensor* t : store_.files().Sorted()) {
      const std::string_view name = t->info.name;
      if (name.substr(0, before.size()) != before) continue;
      int64_t layer = 0;
      const char* end = name.data() + name.size();
      if (std::from_chars(name.data() + before.size(), end, layer).ec != std::errc()) continue;
      if (layer < c_.layers + c_.prediction_layers_max) continue;
      store_.Fail(t->info.name,
                  fmt::format("config.json says num_hidden_layers {}; config and weights "
                              "are of different models",
                              c_.layers));
      return;
    }
  }

  LinearWeights Linear(std::string_view pattern, int64_t out, int64_t in, bool bias) {
    LinearWeights w;
    const ScaledMatrix m = matrices_.Matrix(Name(pattern), out, in);
    w.w = m.w;
    w.scale = m.scale;
    if (bias) {
      w.bias = store_.Vector(Name(pattern) + ".bias", out);
    } else {
      MustBeAbsent(Name(pattern) + ".bias");
    }
    return w;
  }
  TensorView Norm(std::string_view pattern, int64_t size) {
    return store_.Vector(Name(pattern) + ".weight", size);
  }

  LayerWeights Layer() {
    LayerWeights w;
    w.attention_norm = Norm(n_.attention_norm, c_.hidden);
    w.ffn_norm = Norm(n_.ffn_norm, c_.hidden);
    if (c_.gqa) w.gqa = Gqa(*c_.gqa);
    if (c_.mla) w.mla = Mla(*c_.mla);
    if (c_.IsMoe(layer_)) {
      w.moe = Moe(*c_.moe);
    } else {
      w.dense = Ffn(n_.gate, n_.up, n_.down, c_.dense_width);
    }
    return w;
  }

  GqaWeights Gqa(const GqaConfig& a) {
    const int64_t q = a.heads * a.head_dim, kv = a.kv_heads * a.head_dim;
    GqaWeights w;
    w.q = Linear(n_.q, q, c_.hidden, a.qkv_bias);
    w.k = Linear(n_.k, kv, c_.hidden, a.qkv_bias);
    w.v = Linear(n_.v, kv, c_.hidden, a.qkv_bias);
    w.o = Linear(n_.o, c_.hidden, q, a.o_bias);
    if (a.qk_norm) {
      w.q_norm = Norm(n_.q_norm, a.head_dim);
      w.k_norm = Norm(n_.k_norm, a.head_dim);
    } else if (!n_.q_norm.empty()) {
      MustBeAbsent(Name(n_.q_norm) + ".weight");
    }
    if (a.sinks) w.sinks = store_.VectorF32(Name(n_.sinks), a.heads);
    return w;
  }

  MlaWeights Mla(const MlaConfig& a) {
    MlaWeights w;
    const int64_t q = a.heads * (a.nope + a.rope);
    if (a.q_lora > 0) {
      w.q_a = Linear(n_.q_a, a.q_lora, c_.hidden, a.bias);
      w.q_a_norm = Norm(n_.q_a_norm, a.q_lora);
      w.q = Linear(n_.q_b, q, a.q_lora, false);
    } else {
      w.q = Linear(n_.q, q, c_.hidden, false);
    }
    w.kv_a = Linear(n_.kv_a, a.kv_lora + a.rope, c_.hidden, a.bias);
    w.kv_a_norm = Norm(n_.kv_a_norm, a.kv_lora);
    w.kv_b = matrices_.Multiplied(Name(n_.kv_b), a.heads * (a.nope + a.v_dim), a.kv_lora);
    w.o = Linear(n_.o, c_.hidden, a.heads * a.v_dim, a.bias);
    return w;
  }

  FfnWeights Ffn(std::string_view gate, std::string_view up, std::string_view down, int64_t width) {
    return {.gate = Linear(gate, width, c_.hidden, c_.ffn_bias),
            .up = Linear(up, width, c_.hidden, c_.ffn_bias),
            .down = Linear(down, c_.hidden, width, c_.ffn_bias)};
  }

  MoeWeights Moe(const MoeConfig& m) {
    own_.without = host_.Of(static_cast<size_t>(layer_));
    MoeWeights w;
    // The router is computed in FP32 whatever the model's dtype, so it is never rounded.
    w.router = store_.MatrixAsIs(Name(n_.router) + ".weight", {m.experts, c_.hidden});
    if (m.correction_bias)
      w.correction_bias = store_.VectorF32(Name(n_.correction_bias), m.experts);
    if (m.shared_width > 0) {
      w.shared = Ffn(n_.shared_gate, n_.shared_up, n_.shared_down, m.shared_width);
    } else if (!n_.shared_gate.empty()) {
      MustBeAbsent(Name(n_.shared_gate) + ".weight");
    }
    if (!n_.stacked_gate_up.empty()) {
      w.router_bias = store_.Vector(Name(n_.router) + ".bias", m.experts);
      StackedExperts(m, &w);
      return w;
    }
    w.experts.reserve(static_cast<size_t>(m.experts));
    for (int64_t e = 0; e < m.experts; ++e) {
      w.experts.push_back(Expert(m, e));
      if (!store_.status().ok()) break;
      CheckOneDType(w.experts.back(), w.experts.front(), e);
    }
    MustBeAbsent(Name(n_.expert_up, m.experts) + ".weight");
    return w;
  }

  ExpertWeights Expert(const MoeConfig& m, int64_t e) {
    const auto matrix = [&](std::string_view pattern, int64_t out, int64_t in) {
      return matrices_.Matrix(Name(pattern, e), out, in, own_.Has(e));
    };
    const ScaledMatrix gate = matrix(n_.expert_gate, m.width, c_.hidden);
    const ScaledMatrix up = matrix(n_.expert_up, m.width, c_.hidden);
    const ScaledMatrix down = matrix(n_.expert_down, c_.hidden, m.width);
    return {.gate = gate.w,
            .up = up.w,
            .down = down.w,
            .gate_scale = gate.scale,
            .up_scale = up.scale,
            .down_scale = down.scale};
  }

  void StackedExperts(const MoeConfig& m, MoeWeights* w) {
    const QuantizedWeights::Stacked gate_up{Name(n_.stacked_gate_up), m.experts, 2 * m.width,
                                            c_.hidden, own_};
    const QuantizedWeights::Stacked down{Name(n_.stacked_down), m.experts, c_.hidden, m.width,
                                         own_};
    w->input_major = !matrices_.IsMxfp4(gate_up);
    if (w->input_major == matrices_.IsMxfp4(down)) {
      store_.Fail(down.name, "is not in the format of gate_up_proj; complete the model directory");
    }
    const std::vector<ScaledMatrix> first = matrices_.Experts(gate_up);
    const std::vector<ScaledMatrix> second = matrices_.Experts(down);
    const std::vector<TensorView> first_bias = matrices_.ExpertBiases(gate_up);
    const std::vector<TensorView> second_bias = matrices_.ExpertBiases(down);
    for (size_t e = 0; e < first.size(); ++e) {
      w->experts.push_back({.gate = first[e].w,
                            .down = second[e].w,
                            .gate_scale = first[e].scale,
                            .down_scale = second[e].scale,
                            .gate_bias = first_bias[e],
                            .down_bias = second_bias[e]});
      if (!store_.status().ok()) return;
      const TensorView& gate = w->experts.back().gate;
      if (gate.empty() || gate.dtype() == w->experts.back().down.dtype()) continue;
      store_.Fail(down.name, "dtype: is not that of gate_up_proj; save the model in one");
    }
  }

  // The experts of a layer are computed by one op over one dtype.
  void CheckOneDType(const ExpertWeights& expert, const ExpertWeights& first, int64_t e) {
    if (expert.gate.empty()) return;
    for (const TensorView* t : {&expert.gate, &expert.up, &expert.down}) {
      if (first.gate.empty() || t->dtype() == first.gate.dtype()) continue;
      store_.Fail(Name(n_.expert_gate, e) + ".weight",
                  "dtype: experts of a layer differ in dtype; save the model in one");
    }
  }

  const ModelConfig& c_;
  const WeightNames& n_;
  ExpertRange own_;  // of layer_
  const HostExperts& host_;
  WeightStore& store_;
  QuantizedWeights matrices_;
  int64_t layer_ = 0;
};

}  // namespace

ModelWeights BindWeights(const ModelConfig& config, const WeightNames& names, ExpertRange own,
                         WeightStore* store, const HostExperts& host) {
  return Binder(config, names, own, store, host).All();
}

ExpertWeights BindExpert(const ModelConfig& config, const WeightNames& names, int64_t layer,
                         int64_t expert, WeightStore* store) {
  const HostExperts none;
  return Binder(config, names, {expert, expert + 1}, store, none).One(layer, expert);
}

}  // namespace choir
