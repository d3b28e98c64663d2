#include "router/relay/choice_text.h"

#include <algorithm>
#include <utility>

namespace choir {

ChoiceText::ChoiceText(const ChoiceTextOptions& options)
    : stop_token_ids_(options.stop_token_ids),
      max_tokens_(options.max_tokens),
      detokenizer_(options.tokenizer, /*skip_special=*/true),
      stops_(options.stops) {
  if (options.split_reasoning) splitter_.emplace(options.tags, options.starts_inside_reasoning);
}

ChoiceText::Piece ChoiceText::Push(int32_t token) {
  ++num_tokens_;
  const bool was_inside = splitter_ && splitter_->inside();
  const bool is_stop =
      std::find(stop_token_ids_.begin(), stop_token_ids_.end(), token) != stop_token_ids_.end();
  Piece piece;
  if (is_stop) {
    // The token that ends the answer is counted and reported, but is no part of its text.
    piece = End("stop");
  } else {
    StopMatcher::Result found = stops_.Push(detokenizer_.Push(token));
    if (found.stopped) {
      piece = Split(found.text, /*last=*/true);
      piece.finish_reason = "stop";
    } else if (num_tokens_ >= max_tokens_) {
      piece = Split(found.text, /*last=*/false);
      Piece rest = End("length");
      piece.text += rest.text;
      piece.reasoning += rest.reasoning;
      piece.finish_reason = std::move(rest.finish_reason);
    } else {
      piece = Split(found.text, /*last=*/false);
    }
  }
  if (was_inside || (splitter_ && splitter_->inside())) ++reasoning_tokens_;
  return piece;
}

ChoiceText::Piece ChoiceText::End(std::string finish_reason) {
  // The last, unfinished character may itself complete a stop string.
  StopMatcher::Result found = stops_.Push(detokenizer_.Flush());
  if (found.stopped) {
    finish_reason = "stop";
  } else {
    found.text += stops_.Flush();
  }
  Piece piece = Split(found.text, /*last=*/true);
  piece.finish_reason = std::move(finish_reason);
  return piece;
}

ChoiceText::Piece ChoiceText::Split(const std::string& text, bool last) {
  Piece piece;
  if (!splitter_) {
    piece.text = text;
    return piece;
  }
  ReasoningSplitter::Piece split = splitter_->Push(text);
  if (last) {
    ReasoningSplitter::Piece rest = splitter_->Flush();
    split.reasoning += rest.reasoning;
    split.content += rest.content;
  }
  piece.text = std::move(split.content);
  piece.reasoning = std::move(split.reasoning);
  return piece;
}

}  // namespace choir
