#include "tools/gpu/slice_model.h"

#include <cmath>
#include <filesystem>
#include <fstream>

#include "tools/model/random_config.h"

namespace choir::gpu {
namespace {

// The root mean square of f8 numbers with equally likely codes.
constexpr double kF8Rms = 90;

class Maker {
 public:
  Maker(const ModelConfig& config, Device* device, std::vector<Piece>* pieces)
      : c_(config), device_(*device), pieces_(*pieces) {}

  ModelWeights All() {
    ModelWeights w;
    w.embedding = Make(DType::kBF16, {c_.vocab, c_.hidden}, {.range = 1});
    w.final_norm = Norm(c_.hidden);
    w.head = Plain(c_.vocab, c_.hidden);
    for (int64_t layer = 0; layer < c_.layers; ++layer) w.layers.push_back(Layer(c_.IsMoe(layer)));
    return w;
  }
  const Status& status() const { return status_; }

 private:
  TensorView Make(DType dtype, std::initializer_list<int64_t> shape, const Contents& contents) {
    const TensorView like(static_cast<void*>(nullptr), dtype, shape);
    const StatusOr<DeviceBuffer> memory = device_.Allocate(like.num_bytes());
    if (!memory.ok()) {
      status_ = memory.status();
      return {};
    }
    const TensorView made(static_cast<void*>(memory->data()), dtype, shape);
    pieces_.push_back({made, contents});
    return made;
  }
  TensorView Norm(int64_t size) { return Make(DType::kBF16, {size}, {.range = 0.1, .base = 1}); }
  // Outputs are about as large as inputs.
  TensorView Plain(int64_t out, int64_t in, DType dtype = DType::kBF16) {
    return Make(dtype, {out, in}, {.range = std::sqrt(3.0 / static_cast<double>(in))});
  }
  LinearWeights F8(int64_t out, int64_t in) {
    const double scale = 1 / (kF8Rms * std::sqrt(static_cast<double>(in)));
    return {.w = Make(DType::kF8E4M3, {out, in}, {}),
            .scale = Make(DType::kF32, {(out + 127) / 128, (in + 127) / 128},
                          {.range = scale / 4, .base = scale}),
            .bias = {}};
  }

  FfnWeights Ffn(int64_t width) {
    return {.gate = F8(width, c_.hidden), .up = F8(width, c_.hidden), .down = F8(c_.hidden, width)};
  }

  MlaWeights Mla(const MlaConfig& a) {
    MlaWeights w;
    w.q_a = F8(a.q_lora, c_.hidden);
    w.q_a_norm = Norm(a.q_lora);
    w.q = F8(a.heads * (a.nope + a.rope), a.q_lora);
    w.kv_a = F8(a.kv_lora + a.rope, c_.hidden);
    w.kv_a_norm = Norm(a.kv_lora);
    w.kv_b = Plain(a.heads * (a.nope + a.v_dim), a.kv_lora);
    w.o = F8(c_.hidden, a.heads * a.v_dim);
    return w;
  }

  MoeWeights Moe(const MoeConfig& m) {
    MoeWeights w;
    w.router = Plain(m.experts, c_.hidden);
    w.correction_bias = Make(DType::kF32, {m.experts}, {.range = 0.01});
    w.shared = Ffn(m.shared_width);
    for (int64_t e = 0; e < m.experts; ++e) {
      const FfnWeights expert = Ffn(m.width);
      w.experts.push_back({.gate = expert.gate.w,
                           .up = expert.up.w,
                           .down = expert.down.w,
                           .gate_scale = expert.gate.scale,
                           .up_scale = expert.up.scale,
                           .down_scale = expert.down.scale});
    }
    return w;
  }

  LayerWeights Layer(bool moe) {
    LayerWeights w;
    w.attention_norm = Norm(c_.hidden);
    w.ffn_norm = Norm(c_.hidden);
    w.mla = Mla(*c_.mla);
    if (moe) {
      w.moe = Moe(*c_.moe);
    } else {
      w.dense = Ffn(c_.dense_width);
    }
    return w;
  }

  const ModelConfig& c_;
  Device& device_;
  std::vector<Piece>& pieces_;
  Status status_;
};

}  // namespace

StatusOr<ModelConfig> SliceConfig(const SliceShape& shape) {
  RandomConfigRequest request{.family = "deepseek_v3", .like = "deepseek-v3", .dtype = "fp8"};
  request.overrides = {{"num_hidden_layers", shape.layers},
                       {"first_k_dense_replace", 1},
                       {"n_routed_experts", shape.experts}};
  if (shape.small) {
    request.like.clear();
    for (const auto& [key, value] : std::map<std::string, int64_t>{{"hidden_size", 96},
                                                                   {"intermediate_size", 40},
                                                                   {"moe_intermediate_size", 24},
                                                                   {"num_attention_heads", 2},
                                                                   {"q_lora_rank", 24},
                                                                   {"kv_lora_rank", 24},
                                                                   {"vocab_size", 130}}) {
      request.overrides[key] = value;
    }
  }
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::ordered_json json, MakeRandomConfig(request));
  std::string dir = (std::filesystem::temp_directory_path() / "choir-slice-XXXXXX").string();
  if (mkdtemp(dir.data()) == nullptr) return Internal("no temporary directory can be made");
  std::ofstream(dir + "/config.json") << json.dump();
  StatusOr<ModelConfig> config = ReadModelConfig(dir);
  std::error_code ignored;
  std::filesystem::remove_all(dir, ignored);
  return config;
}

StatusOr<ModelWeights> SliceWeights(const ModelConfig& config, Device* device,
                                    std::vector<Piece>* pieces) {
  Maker maker(config, device, pieces);
  ModelWeights weights = maker.All();
  CHOIR_RETURN_IF_ERROR(maker.status());
  return weights;
}

std::shared_ptr<const LoadedModel> SliceOf(const ModelConfig& config, const ModelWeights& weights,
                                           int64_t layers, Device* device) {
  LoadedParts parts{.config = config, .weights = weights};
  parts.config.layers = layers;
  parts.config.moe->layers.resize(static_cast<size_t>(layers));
  parts.weights.layers.resize(static_cast<size_t>(layers));
  parts.compute = Compute::kBF16;
  parts.device = device;
  parts.own = {0, config.moe->experts};
  return std::make_shared<const LoadedTransformer>(std::move(parts));
}

}  // namespace choir::gpu
