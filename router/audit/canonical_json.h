// The one text of a JSON value: RFC 8785 (JCS). Hashes and signatures of the audit log are taken
// over it. Pure; any thread.
#pragma once

#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir {

// Keys in UTF-16 order, no spaces, numbers as ECMAScript prints them. The value must be valid UTF-8
// and hold no NaN, infinity or integer of 2^53 or more (write those as strings).
std::string CanonicalJson(const nlohmann::json& value);
// The same of an object, and where in its text a member `key`, which it has not, would begin.
std::string CanonicalJson(const nlohmann::json& object, std::string_view key, size_t* place);

// The same of an object without those members: what its hash or signature is of.
std::string CanonicalWithout(nlohmann::json object, std::initializer_list<const char*> keys);
// Whether a value that is no array or object can be printed so.
bool IsCanonicalScalar(const nlohmann::json& value);

// A line that is the canonical text of one JSON object; InvalidArgument says what else it is.
StatusOr<nlohmann::json> ParseCanonical(std::string_view line);

}  // namespace choir
