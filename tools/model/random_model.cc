#include "tools/model/random_model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "common/tensor/small_floats.h"
#include "tools/model/byte_tokenizer.h"
#include "tools/model/safetensors_writer.h"
#include "tools/model/split_mix.h"
#include "tools/model/staged_directory.h"
#include "tools/model/tensor_plan.h"

namespace choir {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunk = 1 << 16;  // values made at a time
constexpr size_t kTensorsMax = 1 << 20;

// Values of one tensor: centre + uniform in +-spread, drawn in pairs from a stream of its own, so
// they do not depend on what other tensors there are.
struct Distribution {
  float centre = 0.0f;
  float spread = 0.0f;
};

// Codes of f8 are values times this: far from both ends of their range for any width.
constexpr float kF8Gain = 256.0f;

// For f4 codes, drawn evenly from 0 to 6, to be values of this standard deviation.
Distribution Exponents(double deviation) {
  constexpr double kCodes = 2.93;
  return {static_cast<float>(127 + std::round(std::log2(deviation / kCodes))), 1.0f};
}

Distribution DistributionOf(const PlannedTensor& t, const ModelConfig& config) {
  const auto uniform = [](double deviation) {  // of this standard deviation
    return Distribution{0.0f, static_cast<float>(deviation * std::sqrt(3.0))};
  };
  // [out, in], or stacked [experts, in, out].
  const double width = t.shape.size() >= 2 ? static_cast<double>(t.shape[1]) : 1.0;
  const auto last = static_cast<double>(t.shape.back());
  switch (t.role) {
    case TensorRole::kEmbedding:
      return uniform(config.tied_head ? 0.35 : 1.0);
    case TensorRole::kHead:
      return uniform(3.0 / std::sqrt(width));
    case TensorRole::kNorm:
      return {1.0f, 0.2f};
    case TensorRole::kInput:
      return uniform(1.3 / std::sqrt(width));
    case TensorRole::kOutput:  // two a layer: their sum stays near one
      return uniform(1.5 / std::sqrt(width * static_cast<double>(config.layers)));
    case TensorRole::kBias:
      return uniform(0.1);
    case TensorRole::kRouter:
      return uniform(1.2 / std::sqrt(width));
    case TensorRole::kCorrectionBias:
      return uniform(0.1);
    case TensorRole::kF8Scale:
      return {1.0f / kF8Gain, 0.25f / kF8Gain};
    case TensorRole::kF4Codes:  // any byte
      return {127.5f, 127.5f};
    case TensorRole::kF4InputScale:
      return Exponents(1.3 / std::sqrt(32.0 * last));
    case TensorRole::kF4OutputScale:
      return Exponents(1.5 / std::sqrt(32.0 * last * static_cast<double>(config.layers)));
  }
  return {};
}

uint64_t Fnv1a(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

class TensorMaker {
 public:
  TensorMaker(const PlannedTensor& tensor, const ModelConfig& config, DType dtype, uint64_t seed)
      : tensor_(tensor),
        distribution_(DistributionOf(tensor, config)),
        dtype_(dtype),
        random_(SplitMix64(seed).Next() ^ Fnv1a(tensor.name)) {
    gained_ = tensor.role == TensorRole::kHead ||
              (tensor.role == TensorRole::kEmbedding && config.tied_head);
  }

  Status WriteTo(SafetensorsWriter* writer) {
    const int64_t total = tensor_.num_elements();
    std::vector<float> values;
    for (int64_t done = 0; done < total; done += static_cast<int64_t>(values.size())) {
      values.resize(std::min(kChunk, static_cast<size_t>(total - done)));
      Draw(done, &values);
      CHOIR_RETURN_IF_ERROR(Write(values, writer));
    }
    return absl::OkStatus();
  }

 private:
  static Status Write(const std::vector<float>& values, SafetensorsWriter* writer, auto convert) {
    std::vector<decltype(convert(0.0f))> converted(values.size());
    std::transform(values.begin(), values.end(), converted.begin(), convert);
    return writer->Write(std::as_bytes(std::span(converted)));
  }
  Status Write(const std::vector<float>& values, SafetensorsWriter* writer) const {
    switch (dtype_) {
      case DType::kF32:
        return writer->Write(std::as_bytes(std::span(values)));
      case DType::kF16:
        return Write(values, writer, ToF16);
      case DType::kF8E4M3:
        return Write(values, writer, [](float v) { return ToF8(v * kF8Gain); });
      case DType::kU8:
        return Write(values, writer, [](float v) { return static_cast<uint8_t>(std::round(v)); });
      default:
        return Write(values, writer, ToBF16);
    }
  }
  void Draw(int64_t first, std::vector<float>* values) {
    for (size_t i = 0; i < values->size(); i += 2) {  // kChunk is even: pairs never straddle chunks
      const uint64_t bits = random_.Next();
      (*values)[i] = Value(static_cast<int32_t>(bits));
      if (i + 1 < values->size()) (*values)[i + 1] = Value(static_cast<int32_t>(bits >> 32));
    }
    if (!gained_) return;
    for (size_t i = 0; i < values->size(); ++i) {
      (*values)[i] *= ByteTokenizerGain((first + static_cast<int64_t>(i)) / tensor_.shape[1]);
    }
  }
  float Value(int32_t bits) const {
    return distribution_.centre + distribution_.spread * (static_cast<float>(bits) * 0x1p-31f);
  }

  const PlannedTensor& tensor_;
  const Distribution distribution_;
  const DType dtype_;
  SplitMix64 random_;
  bool gained_ = false;
};

// What --dtype asks for; formats with scales go with bf16.
DType ModelDType(const std::string& name) {
  return name == "f32" ? DType::kF32 : name == "f16" ? DType::kF16 : DType::kBF16;
}

// Correction biases are float32 in published files.
DType DTypeOf(const PlannedTensor& t, DType dtype) {
  if (t.role == TensorRole::kCorrectionBias) return DType::kF32;
  return t.dtype.value_or(dtype);
}

TensorSpec SpecOf(const PlannedTensor& t, DType dtype) {
  return {t.name, DTypeOf(t, dtype), t.shape};
}

using Shard = std::vector<const PlannedTensor*>;

std::vector<Shard> CutIntoShards(const std::vector<PlannedTensor>& plan, DType dtype,
                                 uint64_t shard_bytes) {
  std::vector<Shard> shards(1);
  uint64_t bytes = 0;
  for (const PlannedTensor& t : plan) {
    const uint64_t size = SpecOf(t, dtype).num_bytes();
    if (!shards.back().empty() && bytes + size > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(&t);
    bytes += size;
  }
  // Larger elements first, as other writers do: all are aligned then.
  for (Shard& shard : shards) {
    std::stable_sort(shard.begin(), shard.end(), [&](const auto* a, const auto* b) {
      const bool bytes = SizeOf(DTypeOf(*b, dtype)) == 1;
      return bytes && SizeOf(DTypeOf(*a, dtype)) > 1;
    });
  }
  return shards;
}

Status WriteWeights(const fs::path& directory, const std::vector<PlannedTensor>& plan,
                    const ModelConfig& config, const RandomModelOptions& options) {
  const DType dtype = ModelDType(options.config.dtype);
  const std::vector<Shard> shards = CutIntoShards(plan, dtype, options.shard_bytes);
  nlohmann::json weight_map = nlohmann::json::object();  // sorted by name
  uint64_t total_bytes = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    const std::string file =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    std::vector<TensorSpec> specs;
    for (const PlannedTensor* t : shards[s]) {
      specs.push_back(SpecOf(*t, dtype));
      weight_map[t->name] = file;
      total_bytes += specs.back().num_bytes();
    }
    if (options.note) options.note(fmt::format("writing {}", file));
    CHOIR_ASSIGN_OR_RETURN(const auto writer,
                           SafetensorsWriter::Create((directory / file).string(), specs));
    for (const PlannedTensor* t : shards[s]) {
      TensorMaker maker(*t, config, DTypeOf(*t, dtype), options.seed);
      CHOIR_RETURN_IF_ERROR(maker.WriteTo(writer.get()));
    }
    CHOIR_RETURN_IF_ERROR(writer->Finish().status());
  }
  if (shards.size() == 1) return absl::OkStatus();
  const nlohmann::json index = {{"metadata", {{"total_size", total_bytes}}},
                                {"weight_map", std::move(weight_map)}};
  return WriteTextFile(directory / "model.safetensors.index.json", index.dump(2) + "\n");
}

Status CheckSpace(const fs::path& directory, const std::vector<PlannedTensor>& plan,
                  const std::string& dtype) {
  uint64_t needed = 0;
  for (const PlannedTensor& t : plan) {
    needed += SpecOf(t, ModelDType(dtype)).num_bytes();
  }
  std::error_code error;
  const fs::space_info space = fs::space(directory, error);
  if (!error && space.available < needed + needed / 64) {
    return ResourceExhausted(
        "the model needs {:.1f} GB, but only {:.1f} GB are free there; fewer "
        "--layers or --experts make it smaller",
        static_cast<double>(needed) / 1e9, static_cast<double>(space.available) / 1e9);
  }
  return absl::OkStatus();
}

}  // namespace

Status MakeRandomModel(const RandomModelOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::ordered_json json, MakeRandomConfig(options.config));
  const fs::path target = DirectoryPath(options.out);
  std::error_code error;
  if (fs::exists(target, error) && !fs::is_empty(target, error)) {
    return AlreadyExists("{} exists and is not empty; remove it or give another --out",
                         target.string());
  }
  CHOIR_ASSIGN_OR_RETURN(const TokenizerText text,
                         MakeByteTokenizer(json["vocab_size"], json["max_position_embeddings"]));
  CHOIR_ASSIGN_OR_RETURN(StagedDirectory staged, StagedDirectory::Create(target));
  const fs::path& part = staged.path();
  CHOIR_RETURN_IF_ERROR(WriteTextFile(part / "config.json", json.dump(2) + "\n"));
  const nlohmann::ordered_json generation = {{"bos_token_id", 0}, {"eos_token_id", 1}};
  CHOIR_RETURN_IF_ERROR(WriteTextFile(part / "generation_config.json", generation.dump(2) + "\n"));
  CHOIR_RETURN_IF_ERROR(WriteTextFile(part / "tokenizer.json", text.tokenizer));
  CHOIR_RETURN_IF_ERROR(WriteTextFile(part / "tokenizer_config.json", text.tokenizer_config));
  // The loader's own reader judges the shape, so what is made here can be served.
  const StatusOr<ModelConfig> read = ReadModelConfig(part.string());
  if (!read.ok()) {  // its file is about to go: name only the key
    std::string message = MessageOf(read.status());
    const std::string where = (part / "config.json").string() + ": ";
    if (message.starts_with(where)) message.erase(0, where.size());
    for (const ShapeOption& option : ShapeOptions()) {  // of the command, if one is to blame
      if (option.Is(message.substr(0, message.find(": ")))) {
        message = fmt::format("{}: {}", option.flag, message);
        break;
      }
    }
    return InvalidArgument("this shape cannot be: {}", message);
  }
  const ModelConfig& config = *read;
  const std::vector<PlannedTensor> plan =
      PlanTensors(config, *FindFamily(config.family)->names, kTensorsMax);
  if (plan.size() > kTensorsMax) {
    return InvalidArgument(
        "this shape cannot be: it has more than {} tensors; fewer --layers or --experts have fewer",
        kTensorsMax);
  }
  CHOIR_RETURN_IF_ERROR(CheckSpace(part, plan, options.config.dtype));
  CHOIR_RETURN_IF_ERROR(WriteWeights(part, plan, config, options));
  return staged.Commit();
}

}  // namespace choir
