// Describes a model directory from its config and the headers of its weight files. Blocking; any
// thread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "common/base/status.h"

namespace choir {

// An object of numbers and strings in reading order. InvalidArgument names the file and field when
// the directory cannot be served.
StatusOr<nlohmann::ordered_json> DescribeModel(const std::string& directory);

// As a worker computes it (worker/model/weights/numerics_id.h); reads weights.
StatusOr<std::string> DigestOfWeights(const std::string& directory);

// What DescribeModel gives, for people: a few lines, each ended by a newline. "weights_digest" may
// have been added.
std::string FormatModelInfo(const nlohmann::ordered_json& info);

}  // namespace choir
