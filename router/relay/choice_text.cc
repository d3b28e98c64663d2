#include "router/relay/choice_text.h"

#include <algorithm>
#include <utility>

namespace choir {

ChoiceText::ChoiceText(const ChoiceTextOptions& options)
    : tokenizer_(options.tokenizer),
      tags_(options.tags),
      stop_token_ids_(options.stop_token_ids),
      max_tokens_(options.max_tokens),
      detokenizer_(options.tokenizer, /*skip_special=*/true),
      stops_(options.stops) {
  if (options.rules != nullptr) {
    text_filter_.emplace(options.rules);
    reasoning_filter_.emplace(options.rules);
  }
  if (options.split_reasoning) splitter_.emplace(options.tags, options.starts_inside_reasoning);
}

ChoiceText::Piece ChoiceText::Push(int32_t token) { return Filter(Advance(token)); }

ChoiceText::Piece ChoiceText::End(std::string finish_reason) {
  return Filter(Rest(std::move(finish_reason)));
}

ChoiceText::Piece ChoiceText::Filter(Piece piece) {
  if (!text_filter_) return piece;
  const bool last = !piece.finish_reason.empty();
  piece.reasoning = reasoning_filter_->Push(piece.reasoning);
  piece.text = text_filter_->Push(piece.text);
  // The reasoning is over once there is an answer: its rest comes before.
  if (last || (splitter_ && !splitter_->inside())) piece.reasoning += reasoning_filter_->Flush();
  if (last) piece.text += text_filter_->Flush();
  if (!reasoning_filter_->refused_by().empty()) piece.text.clear();
  if (!reasoning_filter_->refused_by().empty() || !text_filter_->refused_by().empty()) {
    piece.finish_reason = "content_filter";
  }
  return piece;
}

void ChoiceText::AddHits(std::vector<RuleHits>* hits) const {
  if (!text_filter_) return;
  choir::AddHits(*reasoning_filter_, hits);
  choir::AddHits(*text_filter_, hits);
}

ChoiceText::Piece ChoiceText::Advance(int32_t token) {
  ++num_tokens_;
  const bool was_inside = splitter_ && splitter_->inside();
  const bool is_stop =
      std::find(stop_token_ids_.begin(), stop_token_ids_.end(), token) != stop_token_ids_.end();
  Piece piece;
  if (is_stop) {
    // The token that ends the answer is counted and reported, but is no part of its text.
    piece = Rest("stop");
  } else {
    StopMatcher::Result found = stops_.Push(Decode(token));
    if (found.stopped) {
      piece = Split(found.text, /*last=*/true);
      piece.finish_reason = "stop";
    } else if (num_tokens_ >= max_tokens_) {
      piece = Split(found.text, /*last=*/false);
      Piece rest = Rest("length");
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

std::string ChoiceText::Decode(int32_t token) {
  std::string text = detokenizer_.Push(token);
  // Tags that the tokenizer marks special have no text of their own, but they split the text.
  if (splitter_ && tokenizer_->IsSpecial(token)) {
    const std::string tag = tokenizer_->TokenBytes(token);
    if (tag == tags_.open || tag == tags_.close) text += tag;
  }
  num_chars_ += static_cast<uint32_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
  return text;
}

ChoiceText::Piece ChoiceText::Rest(std::string finish_reason) {
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
