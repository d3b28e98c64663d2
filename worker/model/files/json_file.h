// JSON files of a model directory, read strictly: a regular file below a size, well-formed UTF-8
// JSON, no duplicate keys, bounded depth. Errors name the file. Thread-compatible.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir {

inline constexpr size_t kJsonFileMaxBytes = size_t{256}
                                            << 20;  // an index of 10^6 tensors is ~100 MB

// NotFound when there is no such file.
StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

// `file` is only for messages.
StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& file);

// Read and parse; an object is required at the top.
StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, size_t max_bytes);

}  // namespace choir
