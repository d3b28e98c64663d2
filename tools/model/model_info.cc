#include "tools/model/model_info.h"

#include <algorithm>
#include <filesystem>

#include "common/files/json_file.h"
#include "tools/model/tensor_plan.h"
#include "worker/model/files/weight_files.h"
#include "worker/model/weights/numerics_id.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

// Every tensor that the config asks for is in the files with its shape.
Status CheckTensors(const std::vector<PlannedTensor>& plan, const WeightFiles& files) {
  for (const PlannedTensor& t : plan) {
    const StoredTensor* stored = files.Find(t.name);
    if (stored == nullptr) {
      return InvalidArgument("{}: tensor {} is missing; is a file or a shard absent?", files.dir(),
                             t.name);
    }
    if (stored->info.shape != t.shape) {
      return InvalidArgument(
          "{}: tensor {}: shape [{}], but config.json asks for [{}]; config and weights are of "
          "different "
          "models",
          stored->file->path(), t.name, fmt::join(stored->info.shape, ", "),
          fmt::join(t.shape, ", "));
    }
  }
  return absl::OkStatus();
}

// quantization_config names what may have a format; these are the tensors to look for. FP8 ones
// have the names and shapes of plain ones.
ModelConfig AsStored(ModelConfig c, const WeightFiles& files) {
  const std::string_view pattern = FindFamily(c.family)->names->stacked_gate_up;
  const bool blocks = !pattern.empty() && files.Find(TensorName(pattern, 0) + "_blocks") != nullptr;
  c.quant.kind = blocks ? QuantConfig::Kind::kMxfp4 : QuantConfig::Kind::kNone;
  return c;
}

// "fp8", "mxfp4" or null.
Json FormatName(QuantConfig::Kind kind) {
  switch (kind) {
    case QuantConfig::Kind::kNone:
      return nullptr;
    case QuantConfig::Kind::kFp8:
      return "fp8";
    case QuantConfig::Kind::kMxfp4:
      return "mxfp4";
  }
  return nullptr;
}

int64_t KvElementsPerToken(const ModelConfig& c) {
  if (c.mla) return c.layers * (c.mla->kv_lora + c.mla->rope);
  return c.layers * 2 * c.gqa->kv_heads * c.gqa->head_dim;
}

void AddAttention(const ModelConfig& c, Json* info) {
  if (c.mla) {
    (*info)["attention"] = "mla";
    (*info)["heads"] = c.mla->heads;
    (*info)["kv_latent"] = c.mla->kv_lora + c.mla->rope;
    return;
  }
  (*info)["attention"] = "gqa";
  (*info)["heads"] = c.gqa->heads;
  (*info)["kv_heads"] = c.gqa->kv_heads;
  (*info)["head_dim"] = c.gqa->head_dim;
  const auto slides = [](int64_t window) { return window > 0; };
  const auto first = std::find_if(c.windows.begin(), c.windows.end(), slides);
  if (first == c.windows.end()) return;
  (*info)["window"] = *first;
  (*info)["window_layers"] = std::count_if(c.windows.begin(), c.windows.end(), slides);
}

void AddExperts(const ModelConfig& c, Json* info) {
  if (c.NumMoeLayers() == 0) return;
  (*info)["moe_layers"] = c.NumMoeLayers();
  (*info)["experts"] = c.moe->experts;
  (*info)["experts_per_token"] = c.moe->top_k;
  (*info)["expert_width"] = c.moe->width;
  (*info)["shared_width"] = c.moe->shared_width;
  (*info)["expert_groups"] = c.moe->num_groups;
  (*info)["groups_per_token"] = c.moe->groups_kept;
}

// "none" without one; a directory whose tokenizer files are broken is found out by who loads them.
void AddText(const fs::path& directory, Json* info) {
  std::error_code error;
  (*info)["tokenizer"] = fs::exists(directory / "tokenizer.json", error);
  std::string where =
      fs::exists(directory / "chat_template.jinja", error) ? "chat_template.jinja" : "";
  if (where.empty()) {
    const auto config = ReadJsonObject((directory / "tokenizer_config.json").string());
    if (config.ok() && config->contains("chat_template")) where = "tokenizer_config.json";
  }
  (*info)["chat_template"] = where.empty() ? Json() : Json(where);
}

std::string Billions(int64_t n) {
  const double v = static_cast<double>(n);
  if (v >= 1e9) return fmt::format("{:.2f} G", v / 1e9);
  if (v >= 1e6) return fmt::format("{:.1f} M", v / 1e6);
  return fmt::format("{:.1f} K", v / 1e3);
}

}  // namespace

StatusOr<Json> DescribeModel(const std::string& directory) {
  CHOIR_ASSIGN_OR_RETURN(const ModelConfig c, ReadModelConfig(directory));
  const WeightNames& names = *FindFamily(c.family)->names;
  CHOIR_ASSIGN_OR_RETURN(const auto files, WeightFiles::Open(directory));
  const std::vector<PlannedTensor> plan =
      PlanTensors(AsStored(c, *files), names, files->Sorted().size());
  CHOIR_RETURN_IF_ERROR(CheckTensors(plan, *files));
  const ParameterCount parameters = CountParameters(c, plan);
  const TensorInfo& embedding = files->Find(std::string(names.embedding))->info;

  Json info = {{"directory", directory}, {"family", c.family}, {"dtype", embedding.dtype_name}};
  info["quantization"] = FormatName(c.quant.kind);
  info["layers"] = c.layers;
  info["hidden"] = c.hidden;
  info["vocab"] = c.vocab;
  info["context"] = c.positions_max;
  AddAttention(c, &info);
  info["dense_width"] = c.dense_width;
  AddExperts(c, &info);
  info["parameters"] = parameters.total;
  info["active_parameters"] = parameters.active;
  info["weight_bytes"] = files->total_bytes();
  info["weight_files"] = files->files().size();
  const DType kv = embedding.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
  info["kv_bytes_per_token"] = KvElementsPerToken(c) * static_cast<int64_t>(SizeOf(kv));
  info["eos_ids"] = c.eos_ids;
  AddText(directory, &info);
  return info;
}

StatusOr<std::string> DigestOfWeights(const std::string& directory) {
  CHOIR_ASSIGN_OR_RETURN(const auto files, WeightFiles::Open(directory));
  return WeightsDigest(*files, "");
}

std::string FormatModelInfo(const Json& info) {
  const auto number = [&](const char* key) { return info.at(key).get<int64_t>(); };
  const auto text = [&](const char* key) { return info.at(key).get<std::string>(); };
  std::string out = fmt::format("{}\n", text("directory"));
  out += fmt::format("  family      {}, {}{}\n", text("family"), text("dtype"),
                     info.at("quantization").is_null() ? "" : " and " + text("quantization"));
  out += fmt::format("  shape       {} layers, hidden {}, vocabulary {}, context {}\n",
                     number("layers"), number("hidden"), number("vocab"), number("context"));
  out += info.contains("kv_heads")
             ? fmt::format("  attention   {} heads, {} key-value heads of {}\n", number("heads"),
                           number("kv_heads"), number("head_dim"))
             : fmt::format("  attention   MLA, {} heads, latent of {}\n", number("heads"),
                           number("kv_latent"));
  if (info.contains("window")) {
    out += fmt::format("  window      {} tokens in {} layers\n", number("window"),
                       number("window_layers"));
  }
  if (info.contains("experts")) {
    out +=
        fmt::format("  experts     {} of width {} in {} layers, {} a token{}\n", number("experts"),
                    number("expert_width"), number("moe_layers"), number("experts_per_token"),
                    number("shared_width") > 0
                        ? fmt::format(", shared expert of width {}", number("shared_width"))
                        : "");
    if (number("expert_groups") > 1) {
      out += fmt::format("  groups      {}, a token uses {}\n", number("expert_groups"),
                         number("groups_per_token"));
    }
  }
  out += fmt::format("  parameters  {}, {} active\n", Billions(number("parameters")),
                     Billions(number("active_parameters")));
  out += fmt::format("  weights     {:.1f} MB in {} file(s)\n",
                     static_cast<double>(number("weight_bytes")) / 1e6, number("weight_files"));
  out += fmt::format("  KV          {} bytes a token\n", number("kv_bytes_per_token"));
  out += fmt::format("  text        tokenizer {}, chat template {}\n",
                     info.at("tokenizer").get<bool>() ? "yes" : "no",
                     info.at("chat_template").is_null() ? "no" : text("chat_template"));
  if (info.contains("weights_digest")) out += "  digest      " + text("weights_digest") + "\n";
  return out;
}

}  // namespace choir
