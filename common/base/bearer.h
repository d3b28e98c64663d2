// The value of an Authorization header or metadata field. Pure.
#pragma once

#include <string_view>

namespace choir {

// KEY of "Bearer KEY" (RFC 6750; the scheme's case does not count, spaces before KEY are dropped):
// visible ASCII without a space. Empty for all else: another scheme, two of them, control
// characters.
std::string_view BearerIn(std::string_view authorization);

}  // namespace choir
