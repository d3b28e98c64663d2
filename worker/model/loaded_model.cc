#include "worker/model/loaded_model.h"

#include <algorithm>
#include <utility>

#include "common/files/json_file.h"
#include "common/files/read_file.h"
#include "worker/model/weights/bind_weights.h"
#include "worker/model/weights/numerics_id.h"

namespace choir {
namespace {

// What weights take and multiply.
struct Size {
  int64_t bytes = 0;
  int64_t elements = 0;  // scales and biases apart
};
Size operator+(Size a, Size b) { return {a.bytes + b.bytes, a.elements + b.elements}; }
Size operator*(int64_t n, Size a) { return {n * a.bytes, n * a.elements}; }

Size SizeOfMatrix(const TensorView& w, const TensorView& scale = {}) {
  if (w.empty()) return {};
  const size_t scale_bytes = scale.empty() ? 0 : scale.num_bytes();
  return {static_cast<int64_t>(w.num_bytes() + scale_bytes), w.num_elements()};
}
Size SizeOfVector(const TensorView& t) { return {SizeOfMatrix(t).bytes, 0}; }
Size SizeOf(const LinearWeights& w) { return SizeOfMatrix(w.w, w.scale) + SizeOfVector(w.bias); }
Size SizeOf(const FfnWeights& w) { return SizeOf(w.gate) + SizeOf(w.up) + SizeOf(w.down); }
Size SizeOf(const ExpertWeights& w) {
  return SizeOfMatrix(w.gate, w.gate_scale) + SizeOfMatrix(w.up, w.up_scale) +
         SizeOfMatrix(w.down, w.down_scale) + SizeOfVector(w.gate_bias) + SizeOfVector(w.down_bias);
}

// Any expert will do: views of experts on other ranks may be empty.
Size ExpertSize(const MoeWeights& moe) {
  for (const ExpertWeights& e : moe.experts) {
    if (!e.gate.empty()) return SizeOf(e);
  }
  return {};
}

int64_t ExpertBytesOfAllLayers(const ModelWeights& w) {
  int64_t bytes = 0;
  for (const LayerWeights& l : w.layers) bytes += l.moe ? ExpertSize(*l.moe).bytes : 0;
  return bytes;
}

// What one token reads and multiplies in all layers, at batch 1.
Size ActiveLayers(const ModelConfig& c, const ModelWeights& w) {
  Size size;
  for (const LayerWeights& l : w.layers) {
    size = size + SizeOfVector(l.attention_norm) + SizeOfVector(l.ffn_norm);
    if (l.gqa)
      size = size + SizeOf(l.gqa->q) + SizeOf(l.gqa->k) + SizeOf(l.gqa->v) + SizeOf(l.gqa->o);
    if (l.mla) {
      size = size + SizeOf(l.mla->q_a) + SizeOf(l.mla->q) + SizeOf(l.mla->kv_a) +
             SizeOfMatrix(l.mla->kv_b) + SizeOf(l.mla->o);
    }
    if (l.dense) size = size + SizeOf(*l.dense);
    if (!l.moe) continue;
    size = size + SizeOfMatrix(l.moe->router) + c.moe->top_k * ExpertSize(*l.moe);
    if (l.moe->shared) size = size + SizeOf(*l.moe->shared);
  }
  return size;
}

int64_t WidestColumns(const ModelConfig& c) {
  int64_t widest = std::max(c.hidden, c.dense_width);
  if (c.gqa) widest = std::max(widest, c.gqa->heads * c.gqa->head_dim);
  if (c.mla) {
    widest = std::max({widest, c.mla->heads * c.mla->v_dim, c.mla->q_lora,
                       c.mla->kv_lora + c.mla->rope, c.mla->nope, c.mla->v_dim});
  }
  if (c.moe) widest = std::max({widest, c.moe->width, c.moe->shared_width});
  return widest;
}

ModelInfo InfoOf(const ModelConfig& c, const ModelWeights& w, int64_t kept_bytes) {
  ModelInfo info;
  info.family = c.family;
  info.vocab = c.vocab;
  info.hidden = c.hidden;
  info.layers = c.layers;
  info.context_length = c.positions_max;
  info.num_experts = c.NumMoeLayers() > 0 ? static_cast<int32_t>(c.moe->experts) : 0;
  info.top_k = info.num_experts > 0 ? static_cast<int32_t>(c.moe->top_k) : 0;
  info.columns_max = WidestColumns(c);
  info.heads_max = static_cast<int32_t>(c.gqa ? c.gqa->heads : c.mla->heads);
  info.weight_bytes = kept_bytes;
  const Size active = ActiveLayers(c, w) + SizeOfMatrix(w.head);
  info.active_weight_bytes = active.bytes;
  info.active_flops = 2 * active.elements;
  info.expert_bytes = ExpertBytesOfAllLayers(w);
  info.eos_ids = c.eos_ids;
  return info;
}

struct Precision {
  Compute compute = Compute::kF32;
  std::optional<DType> matrix_dtype;
};

// The embedding stands for the file: every checkpoint has it, in the dtype it was saved in.
StatusOr<Precision> PrecisionOf(const std::string& dtype, const WeightFiles& files,
                                const WeightNames& names) {
  if (dtype == "f32") return Precision{Compute::kF32, {}};
  if (dtype == "bf16") return Precision{Compute::kBF16, DType::kBF16};
  if (dtype != "auto") {
    return InvalidArgument("dtype: '{}' is unknown; give auto, f32 or bf16", dtype);
  }
  const StoredTensor* embedding = files.Find(std::string(names.embedding));
  if (embedding == nullptr) embedding = files.Find(std::string(names.head));
  if (embedding != nullptr && embedding->info.dtype == DType::kBF16) {
    return Precision{Compute::kBF16, DType::kBF16};
  }
  return Precision{Compute::kF32, {}};
}

}  // namespace

LoadedTransformer::LoadedTransformer(ModelConfig config, ModelWeights weights,
                                     std::unique_ptr<WeightStore> store, Compute compute,
                                     NumericsParts numerics)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      store_(std::move(store)),
      compute_(compute),
      numerics_id_(NumericsId(numerics)),
      info_(InfoOf(config_, weights_, store_->kept_bytes())) {
  info_.weights_digest = std::move(numerics.weights_digest);
}

KvLayout LoadedTransformer::kv_layout() const {
  LayerKv layer;
  if (config_.gqa) {
    layer.k_width = layer.v_width = config_.gqa->kv_heads * config_.gqa->head_dim;
  } else {
    layer.kind = LayerKv::Kind::kLatent;
    layer.k_width = config_.mla->kv_lora + config_.mla->rope;
  }
  KvLayout layout;
  layout.dtype = compute_ == Compute::kBF16 ? DType::kBF16 : DType::kF32;
  for (int64_t l = 0; l < config_.layers; ++l) {
    layer.window = config_.WindowOf(l);
    layout.layers.push_back(layer);
  }
  return layout;
}

StatusOr<std::shared_ptr<const LoadedModel>> LoadModel(const LoadOptions& options,
                                                       const KernelSet& kernels) {
  CHOIR_CHECK(options.num_ranks >= 1 && options.rank >= 0 && options.rank < options.num_ranks);
  CHOIR_ASSIGN_OR_RETURN(ModelConfig config, ReadModelConfig(options.model_dir));
  CHOIR_ASSIGN_OR_RETURN(std::unique_ptr<const WeightFiles> files,
                         WeightFiles::Open(options.model_dir));
  const WeightNames& names = *FindFamily(config.family)->names;
  CHOIR_ASSIGN_OR_RETURN(const Precision precision, PrecisionOf(options.dtype, *files, names));
  auto store = std::make_unique<WeightStore>(std::move(files), precision.matrix_dtype);
  const ExpertPlacement placement(config.moe ? static_cast<int32_t>(config.moe->experts) : 0,
                                  options.num_ranks);
  const ExpertRange own{placement.Begin(options.rank), placement.End(options.rank)};
  ModelWeights weights = BindWeights(config, names, own, store.get());
  CHOIR_RETURN_IF_ERROR(store->status());
  NumericsParts parts;
  CHOIR_ASSIGN_OR_RETURN(parts.weights_digest, WeightsDigest(store->files(), options.cache_dir));
  if (!options.weights_digest.empty() && options.weights_digest != parts.weights_digest) {
    return InvalidArgument("{}: the digest of the weights is {}, but {} is wanted",
                           options.model_dir, parts.weights_digest, options.weights_digest);
  }
  CHOIR_RETURN_IF_ERROR(store->Load(options.progress));
  CHOIR_ASSIGN_OR_RETURN(parts.config_text,
                         ReadTextFile(options.model_dir + "/config.json", JsonLimits().bytes_max));
  parts.dtype = precision.compute == Compute::kBF16 ? "bf16" : "f32";
  parts.kernel_set = kernels.Name();
  return std::make_shared<const LoadedTransformer>(
      std::move(config), std::move(weights), std::move(store), precision.compute, std::move(parts));
}

}  // namespace choir
