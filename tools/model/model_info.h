// Describes a model directory from its config and the headers of its weight files; reads no
// weights. Blocking; any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "common/base/status.h"

namespace choir {

// An object of numbers and strings in reading order. InvalidArgument names the file and field when
// the directory cannot be served.
StatusOr<nlohmann::ordered_json> DescribeModel(const std::string& directory);

// The same for people: a few lines, each ended by a newline.
std::string FormatModelInfo(const nlohmann::ordered_json& info);

}  // namespace choir
