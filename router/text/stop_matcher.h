// Finds stop strings in streamed text: text that could be the start of a stop string is held back
// until it is certain. The earliest match, the one complete first, ends the text before it (ties:
// the longest stop), so the outcome does not depend on how the text is cut into pieces. Empty stops
// never match. Pure; one thread; linear time for each stop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace choir {

class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);

  struct Result {
    std::string text;      // certain now
    bool stopped = false;  // a stop string is complete: this was the last text
    std::string matched;   // which
  };
  // After a match every further Push gives {"", true, the same stop}.
  Result Push(std::string_view text);
  std::string Flush();  // the held-back rest when the stream ended otherwise

 private:
  struct Stop {
    std::string text;
    std::vector<uint32_t>
        fallback;        // Knuth-Morris-Pratt: length of the longest border of each prefix
    size_t matched = 0;  // bytes of `text` that the stream ends with
  };
  std::vector<Stop> stops_;
  std::string held_;
  int complete_ = -1;  // index of the stop that ended the stream
};

}  // namespace choir
