// Cuts a body of server-sent events into its events as it comes. One thread.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace choir {

class SseReader {
 public:
  // Calls `event(block, data)` for each whole event with data, comments left out: the event's
  // lines, and what follows "data: ". Stops, and returns false, when `event` does.
  template <typename Event>
  bool Push(std::string_view bytes, Event event) {
    buffer_.append(bytes);
    size_t begin = 0;
    bool goes_on = true;
    for (size_t end; goes_on && (end = buffer_.find("\n\n", begin)) != std::string::npos;
         begin = end + 2) {
      std::string_view block = std::string_view(buffer_).substr(begin, end - begin);
      while (block.starts_with(':')) {
        block.remove_prefix(std::min(block.find('\n'), block.size() - 1) + 1);
      }
      const size_t at = block.find("data: ");
      if (at != std::string_view::npos) goes_on = event(block, block.substr(at + 6));
    }
    buffer_.erase(0, begin);
    return goes_on;
  }

  // What came and is no whole event: of an answer that is none, its body.
  const std::string& rest() const { return buffer_; }

 private:
  std::string buffer_;
};

}  // namespace choir
