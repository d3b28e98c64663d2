#include "tools/choir/generation_defaults.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/files/json_file.h"

namespace choir {
namespace {

constexpr size_t kFileMaxBytes = size_t{1} << 20;
constexpr size_t kShownMax = 80;

// nullopt: absent or null.
StatusOr<std::optional<double>> ReadNumber(const nlohmann::json& object, const std::string& path,
                                           const char* key, double min, double max) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return std::optional<double>();
  if (!it->is_number() || it->get<double>() < min || it->get<double>() > max) {
    return InvalidArgument("{}: {}: {} must be a number from {} to {}; correct it or take it out",
                           path, key, it->dump().substr(0, kShownMax), min, max);
  }
  return std::optional<double>(it->get<double>());
}

}  // namespace

StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& model_dir) {
  GenerationDefaults defaults;
  const std::string path = model_dir + "/generation_config.json";
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json object,
                         ReadJsonObjectIfThere(path, {.bytes_max = kFileMaxBytes}));
  if (object.is_null()) return defaults;
  CHOIR_ASSIGN_OR_RETURN(const auto temperature, ReadNumber(object, path, "temperature", 0, 100));
  CHOIR_ASSIGN_OR_RETURN(const auto top_p, ReadNumber(object, path, "top_p", 0, 1));
  CHOIR_ASSIGN_OR_RETURN(const auto top_k, ReadNumber(object, path, "top_k", -1, 1 << 30));
  if (top_k && *top_k != std::floor(*top_k)) {
    return InvalidArgument("{}: top_k: {} is no whole number; correct it or take it out", path,
                           *top_k);
  }
  if (temperature) defaults.temperature = *temperature;
  if (top_p) defaults.top_p = *top_p;
  if (top_k) defaults.top_k = static_cast<int32_t>(*top_k);
  return defaults;
}

}  // namespace choir
