#include "common/base/print_error.h"

#include <cstdio>

namespace choir {

std::string OneLine(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += fmt::format("\\x{:02x}", byte);
    }
  }
  return out;
}

void PrintError(std::string_view program, const Status& status) {
  const std::string line = fmt::format("{}: {}\n", program, OneLine(MessageOf(status)));
  std::fputs(line.c_str(), stderr);
}

}  // namespace choir
