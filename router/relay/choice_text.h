// The text side of one choice: token ids in order go in; certain text, split into reasoning and
// content, comes out, and the decision that the choice is over (stop token, stop string, token
// limit). The decision is made from the tokens alone, so it is the same whichever worker computed
// them. Content rules act last, on text and reasoning apart, after stop strings. Pure; one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "router/base/types.h"
#include "router/content/content_filter.h"
#include "router/text/reasoning.h"
#include "router/text/stop_matcher.h"
#include "router/text/tokenizer.h"

namespace choir {

struct ChoiceTextOptions {
  const Tokenizer* tokenizer = nullptr;  // outlives the choice
  std::vector<std::string> stops;
  std::vector<int32_t> stop_token_ids;
  uint32_t max_tokens = 1;
  bool split_reasoning = false;
  bool starts_inside_reasoning = false;
  ReasoningTags tags;
  std::shared_ptr<const ContentRules> rules;  // null: none
};

class ChoiceText {
 public:
  explicit ChoiceText(const ChoiceTextOptions& options);

  struct Piece {
    std::string text;
    std::string reasoning;
    std::string finish_reason;  // set: the choice is over, and so is its text
  };
  // Never after the choice is over.
  Piece Push(int32_t token);
  // The worker ended the choice for its own reason: what is held back is the rest of the text.
  Piece End(std::string finish_reason);

  uint32_t reasoning_tokens() const { return reasoning_tokens_; }
  void AddHits(std::vector<RuleHits>* hits) const;
  // Characters decoded so far, reasoning and stop strings included: where the next token's begin.
  uint32_t num_chars() const { return num_chars_; }

 private:
  Piece Advance(int32_t token);
  Piece Rest(std::string finish_reason);
  Piece Filter(Piece piece);
  Piece Split(const std::string& text, bool last);
  std::string Decode(int32_t token);

  const Tokenizer* tokenizer_;
  ReasoningTags tags_;
  std::vector<int32_t> stop_token_ids_;
  uint32_t max_tokens_;
  uint32_t num_tokens_ = 0;
  uint32_t reasoning_tokens_ = 0;
  uint32_t num_chars_ = 0;
  StreamingDetokenizer detokenizer_;
  StopMatcher stops_;
  std::optional<ReasoningSplitter> splitter_;
  std::optional<ContentFilter> text_filter_, reasoning_filter_;
};

}  // namespace choir
