// JSON from clients, strictly: invalid UTF-8, lone surrogates, NaN, numbers out of range, duplicate
// keys and too deep nesting are errors that say where. nlohmann does the lexing.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "gateway/api/api_error.h"

namespace choir {

using Json = nlohmann::ordered_json;

RestError ParseStrictJson(std::string_view text, int depth_max, Json* out);

}  // namespace choir
