#include "worker/model/loaded_model.h"

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "common/files/json_file.h"
#include "common/files/read_file.h"
#include "worker/device/measuring_device.h"
#include "worker/model/load_host_experts.h"
#include "worker/model/weights/bind_weights.h"
#include "worker/model/weights/device_weights.h"
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
  info.expert_layers = static_cast<int32_t>(c.NumMoeLayers());
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

LoadedTransformer::LoadedTransformer(LoadedParts parts)
    : parts_(std::move(parts)),
      numerics_id_(NumericsId(parts_.numerics)),
      info_(InfoOf(parts_.config, parts_.weights, parts_.weight_bytes)) {
  info_.weights_digest = parts_.numerics.weights_digest;
  info_.kernels = parts_.numerics.kernel_set;
  info_.host_experts = parts_.host_kernels != nullptr;
}

KvLayout LoadedTransformer::kv_layout() const {
  LayerKv layer;
  if (config().gqa) {
    layer.k_width = layer.v_width = config().gqa->kv_heads * config().gqa->head_dim;
  } else {
    layer.kind = LayerKv::Kind::kLatent;
    layer.k_width = config().mla->kv_lora + config().mla->rope;
  }
  KvLayout layout;
  layout.dtype = compute() == Compute::kBF16 ? DType::kBF16 : DType::kF32;
  for (int64_t l = 0; l < config().layers; ++l) {
    layer.window = config().WindowOf(l);
    layout.layers.push_back(layer);
  }
  return layout;
}

namespace {

size_t MiB(size_t bytes) { return (bytes + (1 << 20) - 1) >> 20; }

// The model without its weights, on that device.
std::shared_ptr<const LoadedModel> SizesOf(const LoadedParts& parts, Device* device) {
  return std::make_shared<const LoadedTransformer>(LoadedParts{.config = parts.config,
                                                               .weights = parts.weights,
                                                               .weight_bytes = parts.weight_bytes,
                                                               .compute = parts.compute,
                                                               .device = device,
                                                               .own = parts.own,
                                                               .host_kernels = parts.host_kernels});
}

// Takes the device's memory, before any weight is read: for the weights, and for what will compute
// with them. Chooses what is left to the host.
Status ReserveFor(const LoadOptions& options, LoadedParts* parts) {
  if (options.device->ReadsHostMemory()) return {};
  CHOIR_CHECK(options.beside_weights != nullptr);
  bool nccl = false;
  const auto measure = [&] {
    MeasuringDevice measuring;
    auto bytes = options.beside_weights(SizesOf(*parts, &measuring));
    nccl = measuring.nccl_bytes() > 0;
    options.device->LeaveForNccl(measuring.nccl_bytes());
    return bytes;
  };
  CHOIR_ASSIGN_OR_RETURN(size_t beside, measure());
  CHOIR_ASSIGN_OR_RETURN(const bool host, WantsHostExperts(options, *parts, beside));
  if (host) {
    // What computes beside the host takes other memory.
    parts->host_kernels = options.host_experts.kernels;
    CHOIR_ASSIGN_OR_RETURN(beside, measure());
    CHOIR_RETURN_IF_ERROR(ChooseHostExperts(options, beside, parts));
  }
  const size_t weights = DeviceBytesWithout(parts->host, *parts) +
                         ExpertRoom::ExtraBytes(parts->weights, options.redundant_experts);
  CHOIR_RETURN_IF_ERROR(Annotate(
      options.device->Reserve(weights + beside),
      fmt::format("{}: {} MiB of weights and {} MiB for KV cache and activations want "
                  "memory of the device; lower kv_bytes or step_tokens, give the group more ranks, "
                  "{}or leave experts to the CPU (cpu_experts)",
                  options.model_dir, MiB(weights), MiB(beside),
                  nccl ? "keep rows off NCCL (device_exchange host), " : "")));
  CHOIR_ASSIGN_OR_RETURN(const uint64_t left, options.device->Room());
  CHOIR_LOG(info,
            "{}: {} MiB of weights, {} MiB for KV cache and activations; {} MiB are left, which a "
            "larger worker.kv_bytes would use for more tokens",
            options.device->Name(), MiB(weights), MiB(beside), MiB(left));
  return {};
}

// InvalidArgument: these are not the weights that the options want.
StatusOr<NumericsParts> NumericsOf(const LoadOptions& options, const LoadedParts& parts,
                                   const KernelSet& kernels) {
  NumericsParts numerics;
  CHOIR_ASSIGN_OR_RETURN(numerics.weights_digest,
                         WeightsDigest(parts.store->files(), options.cache_dir));
  if (!options.weights_digest.empty() && options.weights_digest != numerics.weights_digest) {
    return InvalidArgument("{}: the digest of the weights is {}, but {} is wanted",
                           options.model_dir, numerics.weights_digest, options.weights_digest);
  }
  CHOIR_ASSIGN_OR_RETURN(numerics.config_text,
                         ReadTextFile(options.model_dir + "/config.json", JsonLimits().bytes_max));
  numerics.dtype = parts.compute == Compute::kBF16 ? "bf16" : "f32";
  numerics.kernel_set = kernels.Name();
  if (options.f8_rows) numerics.kernel_set += "+f8-rows2";
  if (!parts.host.empty()) {
    numerics.kernel_set +=
        fmt::format(" and {} for experts {}", parts.host_kernels->Name(), parts.host.Digest());
  }
  return numerics;
}

// The device's weights, then those of experts that the host computes.
Status LoadForDevice(const LoadOptions& options, LoadedParts* parts) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<HostExpert> host, BindHostExperts(options, parts));
  const int64_t host_bytes = parts->host_store == nullptr ? 0 : parts->host_store->load_bytes();
  int64_t device_bytes = 0;
  CHOIR_ASSIGN_OR_RETURN(parts->memory,
                         LoadOnDevice(options.device, parts->store.get(), &parts->weights,
                                      [&](int64_t done, int64_t total) {
                                        device_bytes = total;
                                        if (options.progress)
                                          options.progress(done, total + host_bytes);
                                      }));
  parts->store.reset();
  if (options.redundant_experts > 0) {
    CHOIR_ASSIGN_OR_RETURN(
        parts->room, ExpertRoom::Make(options.device, parts->weights, options.redundant_experts));
  }
  const auto progress = [&](int64_t done, int64_t total) {
    if (options.progress) options.progress(device_bytes + done, device_bytes + total);
  };
  return LoadHostExperts(host, progress, parts);
}

Status UseF8Rows(const LoadOptions& options, LoadedParts* parts) {
  if (!options.f8_rows) return {};
  const bool f8 = parts->config.moe && parts->config.quant.kind == QuantConfig::Kind::kFp8;
  if (!f8 || options.device->ReadsHostMemory()) {
    return InvalidArgument("{}: f8_rows (--f8-rows): {}, leave it out", options.model_dir,
                           f8 ? "is for experts on a GPU" : "its experts are not f8");
  }
  parts->config.moe->f8_rows = true;
  return {};
}

// Experts multiply rows in f8 with weights in f8.
Status CheckF8Rows(const LoadOptions& options, const LoadedParts& parts) {
  if (!options.f8_rows) return {};
  if (parts.compute != Compute::kBF16) {
    return InvalidArgument(
        "{}: f8_rows (--f8-rows): is no way to compute in f32; give dtype bf16, or leave it out",
        options.model_dir);
  }
  for (size_t l = 0; l < parts.weights.layers.size(); ++l) {
    if (!parts.weights.layers[l].moe) continue;
    for (const ExpertWeights& e : parts.weights.layers[l].moe->experts) {
      const bool f8 = e.gate.dtype() == DType::kF8E4M3 && e.up.dtype() == DType::kF8E4M3 &&
                      e.down.dtype() == DType::kF8E4M3;
      if (e.gate.empty() || f8) continue;
      return InvalidArgument(
          "{}: f8_rows (--f8-rows): experts of layer {} are not all in f8; leave it out",
          options.model_dir, l);
    }
  }
  return {};
}

// The experts of this rank in every layer (FirstPlacement): a range.
ExpertRange OwnRange(int32_t num_experts, const LoadOptions& options) {
  const ExpertPlacement placement(num_experts, options.num_ranks);
  const std::vector<int32_t>& own = placement.ExpertsOf(options.rank);
  return own.empty() ? ExpertRange() : ExpertRange{own.front(), own.back() + 1};
}

}  // namespace

StatusOr<std::shared_ptr<const LoadedModel>> LoadModel(const LoadOptions& options,
                                                       const KernelSet& kernels) {
  CHOIR_CHECK(options.num_ranks >= 1 && options.rank >= 0 && options.rank < options.num_ranks);
  LoadedParts parts{.device = options.device};
  CHOIR_ASSIGN_OR_RETURN(parts.config, ReadModelConfig(options.model_dir));
  CHOIR_ASSIGN_OR_RETURN(std::unique_ptr<const WeightFiles> files,
                         WeightFiles::Open(options.model_dir));
  CHOIR_RETURN_IF_ERROR(UseF8Rows(options, &parts));
  const WeightNames& names = *FindFamily(parts.config.family)->names;
  CHOIR_ASSIGN_OR_RETURN(const Precision precision, PrecisionOf(options.dtype, *files, names));
  parts.compute = precision.compute;
  parts.store = std::make_unique<WeightStore>(std::move(files), precision.matrix_dtype);
  const auto& moe = parts.config.moe;
  parts.own = OwnRange(moe ? static_cast<int32_t>(moe->experts) : 0, options);
  parts.weights = BindWeights(parts.config, names, parts.own, parts.store.get());
  CHOIR_RETURN_IF_ERROR(parts.store->status());
  CHOIR_RETURN_IF_ERROR(CheckF8Rows(options, parts));
  parts.weight_bytes = parts.store->kept_bytes();
  const bool moves = !options.device->ReadsHostMemory();
  if (!moves || options.redundant_experts > 0) {
    parts.files = parts.store->shared_files();
    parts.matrix_dtype = parts.store->matrix_dtype();
  }
  if (moves) ForgetOtherExperts(parts.own, {}, &parts.weights);
  CHOIR_RETURN_IF_ERROR(CheckHostExperts(options, parts));
  if (options.check) CHOIR_RETURN_IF_ERROR(options.check(*SizesOf(parts, options.device)));
  CHOIR_RETURN_IF_ERROR(ReserveFor(options, &parts));
  CHOIR_ASSIGN_OR_RETURN(parts.numerics, NumericsOf(options, parts, kernels));
  if (moves) {
    CHOIR_RETURN_IF_ERROR(LoadForDevice(options, &parts));
  } else {
    CHOIR_RETURN_IF_ERROR(parts.store->Load(options.progress));
  }
  return std::make_shared<const LoadedTransformer>(std::move(parts));
}

}  // namespace choir
