// Splits streamed text into reasoning (inside <think>...</think>) and content. A tag may be cut
// anywhere between pieces. When the chat template already opened the tag at the end of the prompt,
// the text starts inside. Whitespace around the tags is dropped as DeepSeek's API does: newlines
// right after an opening or closing tag. Pure; one thread.
#pragma once

#include <string>
#include <string_view>

namespace choir {

struct ReasoningTags {
  std::string open = "<think>";
  std::string close = "</think>";
};

class ReasoningSplitter {
 public:
  ReasoningSplitter(ReasoningTags tags, bool starts_inside);

  struct Piece {
    std::string reasoning;
    std::string content;
  };
  Piece Push(std::string_view text);
  Piece Flush();
  bool inside() const { return inside_; }

 private:
  ReasoningTags tags_;
  bool inside_;
  bool at_start_ = true;        // nothing but whitespace so far: an opening tag may come
  bool skip_newlines_ = false;  // right after a tag
  std::string held_;            // may be the start of a tag
};

}  // namespace choir
