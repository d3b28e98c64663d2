#include "worker/model/expert_counts.h"

#include <nlohmann/json.hpp>

#include "common/files/json_file.h"
#include "common/files/write_file.h"

namespace choir {
namespace {

using nlohmann::json;

constexpr char kRemedy[] = "give one that a worker of this model wrote (--expert-counts)";

// Adds the rows of one layer.
Status AddLayer(const std::string& path, int64_t layer, const json& layers,
                std::vector<uint64_t>* rows) {
  const std::string key = std::to_string(layer);
  const auto list = layers.find(key);
  if (list == layers.end()) {
    return InvalidArgument("{}: layers: {} is missing; {}", path, key, kRemedy);
  }
  if (!list->is_array() || list->size() != rows->size()) {
    return InvalidArgument("{}: layers.{}: must be a list of {} numbers, one an expert; {}", path,
                           key, rows->size(), kRemedy);
  }
  for (size_t e = 0; e < rows->size(); ++e) {
    const json& count = (*list)[e];
    // So that no sum of files overflows.
    if (!count.is_number_unsigned() || count.get<uint64_t>() > (uint64_t{1} << 53)) {
      return InvalidArgument("{}: layers.{}: element {} is not a whole number from 0 to 2^53; {}",
                             path, key, e, kRemedy);
    }
    (*rows)[e] += count.get<uint64_t>();
  }
  return {};
}

Status AddFile(const std::string& path, const ModelConfig& config, ExpertRows* rows) {
  CHOIR_ASSIGN_OR_RETURN(const json file, ReadJsonObject(path));
  const auto experts = file.find("experts");
  if (experts == file.end() || *experts != config.moe->experts) {
    return InvalidArgument("{}: experts: is {}, the model has {}; {}", path,
                           experts == file.end() ? "missing" : experts->dump(), config.moe->experts,
                           kRemedy);
  }
  const auto layers = file.find("layers");
  if (layers == file.end() || !layers->is_object() ||
      static_cast<int64_t>(layers->size()) != config.NumMoeLayers()) {
    return InvalidArgument("{}: layers: must be an object with the {} layers that have experts; {}",
                           path, config.NumMoeLayers(), kRemedy);
  }
  for (int64_t l = 0; l < config.layers; ++l) {
    if (!config.IsMoe(l)) continue;
    CHOIR_RETURN_IF_ERROR(AddLayer(path, l, *layers, &(*rows)[static_cast<size_t>(l)]));
  }
  return {};
}

}  // namespace

Status WriteExpertCounts(const std::string& path, const ExpertCounts& counts) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::object();
  const auto experts = static_cast<size_t>(counts.num_experts);
  for (size_t l = 0; l < counts.layers.size(); ++l) {
    const auto begin = counts.rows.begin() + static_cast<std::ptrdiff_t>(l * experts);
    layers[std::to_string(counts.layers[l])] =
        std::vector<uint64_t>(begin, begin + static_cast<std::ptrdiff_t>(experts));
  }
  const nlohmann::ordered_json file{{"experts", counts.num_experts}, {"layers", layers}};
  return WriteFileWhole(path, file.dump() + "\n", {.mode = 0644});
}

StatusOr<ExpertRows> ReadExpertCounts(const std::vector<std::string>& paths,
                                      const ModelConfig& config) {
  ExpertRows rows(static_cast<size_t>(config.layers));
  for (int64_t l = 0; l < config.layers; ++l) {
    if (!config.IsMoe(l)) continue;
    rows[static_cast<size_t>(l)].resize(static_cast<size_t>(config.moe->experts));
  }
  for (const std::string& path : paths) CHOIR_RETURN_IF_ERROR(AddFile(path, config, &rows));
  return rows;
}

}  // namespace choir
