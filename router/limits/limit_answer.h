// What a client is told of an answer of the count: errors, headers, hints to wait. Pure.
#pragma once

#include <string>
#include <vector>

#include "router/base/api_error.h"
#include "router/limits/limit_scope.h"

namespace choir {

// For the x-ratelimit headers: of all limits of a kind the one of which least is left.
std::vector<LimitReading> ReadingsOf(const LimitAnswer& answer);
// REQUIRES: answer.refusal. `call` as it was asked, with the whole limits.
ApiError ErrorOf(const LimitCall& call, const LimitAnswer& answer);
// "key:k1,tenant:acme", with "(share)" behind when a share of the limits was in force.
std::string RuleOf(const LimitCall& call, const LimitAnswer& answer);

}  // namespace choir
