// Plain values of the HTTP side: no Boost here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/clock.h"

namespace choir {

struct HttpError {
  int status = 0;  // 0: no error; 400, 431, 413, 501, 505
  std::string message;
};

struct HttpLimits {
  int64_t header_bytes_max = 64 << 10;
  int64_t header_lines_max = 100;
  uint64_t body_bytes_max = 8 << 20;
  int64_t connections_max = 10000;
  Duration header_timeout =
      std::chrono::seconds(30);                      // from the first byte to the end of the header
  Duration idle_timeout = std::chrono::seconds(75);  // between requests of a connection
  Duration body_timeout = std::chrono::seconds(60);
  Duration write_timeout = std::chrono::seconds(60);  // one write that makes no progress
};

// A request line and its header fields, checked: names are lower case, values trimmed.
struct HttpHead {
  std::string method;
  std::string path;   // percent-decoded, without the query
  std::string query;  // as given, without '?'
  int minor_version = 1;
  std::vector<std::pair<std::string, std::string>> fields;
  bool chunked = false;
  bool has_length = false;
  uint64_t content_length = 0;
  bool keep_alive = true;
  bool expect_continue = false;

  // The field of that (lower case) name, or ""; the first one of several.
  std::string_view Field(std::string_view name) const {
    for (const auto& [key, value] : fields) {
      if (key == name) return value;
    }
    return {};
  }
};

using HttpFields = std::vector<std::pair<std::string, std::string>>;

}  // namespace choir
