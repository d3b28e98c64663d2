// Streamed text may end inside of something that is looked for.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace choir {

// Length of the longest end of `text` that is a proper beginning of `wanted`. REQUIRES: wanted not
// empty.
inline size_t PartialMatch(std::string_view text, std::string_view wanted) {
  for (size_t n = std::min(text.size(), wanted.size() - 1); n > 0; --n) {
    if (text.ends_with(wanted.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace choir
