#include "router/text/template/text_search.h"

#include <cstring>
#include <string>

namespace choir {

size_t FindText(std::string_view text, std::string_view sub, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (sub.empty()) return from;
  // The C library searches in two ways at once (Crochemore and Perrin), which is linear.
  const void* at = memmem(text.data() + from, text.size() - from, sub.data(), sub.size());
  if (at == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(at) - text.data());
}

size_t FindLastText(std::string_view text, std::string_view sub) {
  // Short ones may take their product: it is linear, and no copy is made.
  if (sub.size() <= kShortSearch) return text.rfind(sub);
  const std::string backward(text.rbegin(), text.rend());
  const size_t at = FindText(backward, std::string(sub.rbegin(), sub.rend()));
  return at == std::string_view::npos ? at : text.size() - at - sub.size();
}

}  // namespace choir
