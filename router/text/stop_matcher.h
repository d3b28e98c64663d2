// Finds stop strings in streamed text: text that could be the start of a stop string is held back
// until it is certain. The earliest match ends the text before it (ties: the longest stop). Pure;
// one thread.
#pragma once

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
  Result Push(std::string_view text);
  std::string Flush();  // the held-back rest when the stream ended otherwise

 private:
  std::vector<std::string> stops_;
  std::string held_;
};

}  // namespace choir
