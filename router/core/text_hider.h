// Hides texts of the client in a request: each becomes characters of its own that nobody writes, so
// that what the template makes of it is seen in the prompt. Pure; any thread.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace choir {

// Texts that can be told apart.
inline constexpr size_t kHiddenTextsMax = 0xFFFD;

// Strings that are not empty, keys and numbers ("") of messages, tools and kwargs, but for words of
// the protocol: always in the same order.
std::vector<std::string> FindTexts(nlohmann::ordered_json request);

// REQUIRES: a flag for each text of FindTexts, and no more of them than kHiddenTextsMax. A string
// becomes its mark as often as it has characters, at most 32 times; a number becomes another one
// that begins and ends with another digit.
void HideTexts(const std::vector<bool>& hidden, nlohmann::ordered_json* request);

// A flag for each of `count` texts: whether its mark is in the prompt; never for a number.
std::vector<bool> HiddenTextsIn(std::string_view prompt, size_t count);
// Where hidden texts are in a prompt, when the template shows them as they are, or trimmed:
// `hiding` is that prompt but for their marks. nullopt: it is not.
struct ShownText {
  size_t text = 0;
  size_t begin = 0;  // bytes of the prompt
  size_t end = 0;
};
std::optional<std::vector<ShownText>> FindShown(std::string_view prompt, std::string_view hiding,
                                                const std::vector<std::string>& texts);
// Whether the mark of any text is in it.
bool HasMark(std::string_view text);

}  // namespace choir
