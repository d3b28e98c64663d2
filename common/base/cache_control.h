// "Cache-Control" of a request (RFC 9111 5.2.1), as far as it means something here. Pure.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>

namespace choir {

// Whether it forbids an answer that is kept, or that the answer is kept.
inline bool IsNoCache(std::string_view cache_control) {
  std::string text(cache_control);
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text.find("no-cache") != std::string::npos || text.find("no-store") != std::string::npos;
}

}  // namespace choir
