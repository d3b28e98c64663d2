// JSON files of a model directory, read strictly: a regular file below a size, well-formed UTF-8
// JSON, no duplicate keys, bounded depth and number of values. Errors name the file and the remedy.
// Any thread.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir {

struct JsonLimits {
  size_t bytes_max = size_t{256} << 20;  // an index of 10^6 tensors is ~100 MB
  size_t values_max = 2'000'000;         // the largest published headers hold half as many
};

// `file` is only for messages.
StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& file,
                                   const JsonLimits& limits = {});

// Read and parse; an object is required at the top. NotFound when there is no such file.
StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, const JsonLimits& limits = {});

// Null when there is no such file; a link that leads nowhere is an error.
StatusOr<nlohmann::json> ReadJsonObjectIfThere(const std::string& path,
                                               const JsonLimits& limits = {});

}  // namespace choir
