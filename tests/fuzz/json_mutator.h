// Mutations that keep JSON well-formed most of the time, so that a fuzzer gets behind the parser.
// An input is JSON up to its first line end; what follows is the target's own. Linking this file
// installs the mutator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace choir::fuzz {

// (the JSON, what follows its line end)
inline std::pair<std::string, std::string> SplitInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return {std::string(text), ""};
  return {std::string(text.substr(0, end)), std::string(text.substr(end + 1))};
}

}  // namespace choir::fuzz
