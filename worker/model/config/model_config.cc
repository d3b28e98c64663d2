#include "worker/model/config/model_config.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/files/json_file.h"
#include "worker/model/families/family.h"

namespace choir {
namespace {

constexpr size_t kConfigMaxBytes = size_t{8} << 20;

// Values and ranges speak for themselves, but for what to do about them.
Status WithRemedy(const Status& status) {
  const std::string message = MessageOf(status);
  if (status.ok() || message.find("; ") != std::string::npos) return status;
  return Status(status.code(), message + "; take the file as the model's publisher has it");
}

StatusOr<const Family*> FamilyOf(const nlohmann::json& config, ConfigReader* reader) {
  const std::string type = reader->Text({"model_type"}, "");
  CHOIR_RETURN_IF_ERROR(WithRemedy(reader->status()));
  const Family* family = FindFamily(type);
  if (family == nullptr) {
    std::string known;
    for (const Family& f : Families())
      known += (known.empty() ? "" : ", ") + std::string(f.model_type);
    return InvalidArgument("{}: model_type: {} is not supported; known families: {}",
                           reader->where(),
                           type.empty() ? "(missing)" : "'" + type.substr(0, 64) + "'", known);
  }
  const auto it = config.find("architectures");
  if (it == config.end() || !it->is_array() || it->empty()) return family;
  for (const nlohmann::json& name : *it) {
    if (name.is_string() && name.get_ref<const std::string&>() == family->architecture)
      return family;
  }
  return InvalidArgument(
      "{}: architectures: does not name {}; only language models of this family "
      "can be served",
      reader->where(), family->architecture);
}

// generation_config.json wins over config.json.
StatusOr<std::vector<int32_t>> ReadEos(const std::string& model_dir, ConfigReader* config) {
  const std::string path = model_dir + "/generation_config.json";
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json generation,
                         ReadJsonObjectIfThere(path, {.bytes_max = kConfigMaxBytes}));
  if (!generation.is_null()) {
    ConfigReader reader(generation, path);
    std::vector<int32_t> ids = reader.IntOrList("eos_token_id");
    CHOIR_RETURN_IF_ERROR(WithRemedy(reader.status()));
    if (!ids.empty()) return ids;
  }
  std::vector<int32_t> ids = config->IntOrList("eos_token_id");
  CHOIR_RETURN_IF_ERROR(WithRemedy(config->status()));
  return ids;
}

}  // namespace

StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir) {
  std::error_code error;
  if (!std::filesystem::is_directory(model_dir, error)) {
    return NotFound(
        "{}: directory: is missing or is not a directory; give the directory of a model",
        model_dir);
  }
  const std::string path = model_dir + "/config.json";
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json json,
                         ReadJsonObject(path, {.bytes_max = kConfigMaxBytes}));
  ConfigReader reader(json, path);
  CHOIR_ASSIGN_OR_RETURN(const Family* family, FamilyOf(json, &reader));
  ModelConfig config;
  config.family = std::string(family->model_type);
  family->read(&reader, &config);
  reader.Check(
      config.quant.kind != QuantConfig::Kind::kMxfp4 || !family->names->stacked_gate_up.empty(),
      "quantization_config", "quant_method mxfp4 is known for gpt_oss only");
  CHOIR_RETURN_IF_ERROR(WithRemedy(reader.status()));
  CHOIR_ASSIGN_OR_RETURN(config.eos_ids, ReadEos(model_dir, &reader));
  // Ids beyond the vocabulary can never be generated.
  std::erase_if(config.eos_ids, [&](int32_t id) { return id >= config.vocab; });
  return config;
}

}  // namespace choir
