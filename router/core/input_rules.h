// Content rules on what a request says. Pure; any thread.
#pragma once

#include <optional>
#include <vector>

#include "router/core/api.h"
#include "router/text/tokenizer.h"

namespace choir {

// Changes what the model gets: the prompt, or every text in messages, tools and
// chat_template_kwargs, names of fields too, but for words of the protocol. The text parts of one
// message count as one text. An error: a refusing rule matched, or one matched token ids, whose
// text cannot be changed.
std::optional<ApiError> ApplyInputRules(const Tokenizer& tokenizer, RequestInput* input,
                                        std::vector<RuleHits>* hits);

}  // namespace choir
