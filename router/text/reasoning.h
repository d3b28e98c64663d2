// Splits streamed text into reasoning (inside <think>...</think>) and content. A tag may be cut
// anywhere between pieces; the split does not depend on the cuts. When the chat template already
// opened the tag at the end of the prompt, the text starts inside (an opening tag that the model
// repeats is dropped). An opening tag counts only where nothing but whitespace came before it,
// which is dropped with it; after the closing tag all is content. Newlines right after a tag are
// dropped, as DeepSeek's API does. Pure; one thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace choir {

struct ReasoningTags {
  std::string open = "<think>";
  std::string close = "</think>";
};

class ReasoningSplitter {
 public:
  // REQUIRES: both tags non-empty.
  ReasoningSplitter(ReasoningTags tags, bool starts_inside);

  struct Piece {
    std::string reasoning;
    std::string content;
  };
  Piece Push(std::string_view text);
  Piece Flush();
  bool inside() const { return inside_; }

 private:
  // Each takes what is certain from the front of held_; false: more text is needed.
  bool TakeStart(bool last, Piece* piece);
  bool TakeReasoning(bool last, Piece* piece);
  void Emit(std::string_view text, std::string* to);

  ReasoningTags tags_;
  bool inside_;
  bool at_start_ = true;        // nothing but whitespace so far: an opening tag may come
  bool skip_newlines_ = false;  // right after a tag
  size_t blanks_ = 0;           // whitespace at the start of held_, already looked at
  std::string held_;            // may be the start of a tag
};

}  // namespace choir
