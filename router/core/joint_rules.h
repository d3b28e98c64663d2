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

// Bytes that are rendered again at most to find out where matches come from, each text of the
// request counted as kHiddenBytes; what is not known by then counts.
inline constexpr size_t kRenderedAgainMax = 16 << 20;
inline constexpr size_t kHiddenBytes = 128;
// How often a part of a stretch is scanned again for matches that others hide, of 8 KiB each.
inline constexpr size_t kScannedAgainMax = 1000;

// The first rule that matches a place of `prompt` that several texts of the client make together;
// null: none does. `render` made the prompt of `request` ({"messages", "tools"?, "kwargs"?});
// `stretches` are its parts between the tokenizer's marks (views of `prompt`). What the template
// says by itself, or with one of the texts, does not count; what cannot be told does. One scan
// where nothing matches; else the template is rendered again, once and once for each text that a
// match needs; where it changes texts, also about twice the binary logarithm of the number of texts
// for each match. Three times the number of texts at most for all of them.
const ContentRule* FindAcrossTexts(const ContentRules& rules, std::string_view prompt,
                                   const std::vector<std::string_view>& stretches,
                                   const nlohmann::ordered_json& request,
                                   const RenderPrompt& render);

}  // namespace choir
