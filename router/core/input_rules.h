// Content rules on what a request says. Pure; any thread.
#pragma once

#include <optional>
#include <vector>

#include "router/core/api.h"
#include "router/text/tokenizer.h"

namespace choir {

// Changes the prompt or the messages (every text in them but roles, types, names and ids). An
// error: a refusing rule matched, or one matched token ids, whose text cannot be changed.
std::optional<ApiError> ApplyInputRules(const Tokenizer& tokenizer, RequestInput* input,
                                        std::vector<RuleHits>* hits);

}  // namespace choir
