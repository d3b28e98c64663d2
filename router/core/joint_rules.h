// Content rules on the prompt that a chat template has made. Each text of a request was seen before
// (input_rules.h); a template may join texts of the client without a mark between them, and a match
// may lie across the joint. Pure; any thread.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "router/content/content_rules.h"

namespace choir {

// What the template makes of a request.
using RenderPrompt = std::function<StatusOr<std::string>(const nlohmann::ordered_json&)>;

// Bytes that are rendered again at most to find out where a match comes from, each text of the
// request counted as a hundred, and matches that are looked into; beyond, the first one counts.
inline constexpr size_t kRenderedAgainMax = 16 << 20;
inline constexpr size_t kMatchesLookedIntoMax = 32;

// The first rule that matches one of `stretches` in what several texts of the client make together;
// null: none does. They are what `render` made of `request` ({"messages", "tools"?, "kwargs"?}),
// cut at the tokenizer's marks. What the template says by itself, or with one of the texts, does
// not count. One scan where nothing matches; else the template is rendered again, up to twice the
// binary logarithm of the number of texts and once more.
const ContentRule* FindAcrossTexts(const ContentRules& rules,
                                   const std::vector<std::string_view>& stretches,
                                   const nlohmann::ordered_json& request,
                                   const RenderPrompt& render);

}  // namespace choir
