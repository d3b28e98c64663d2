#include "router/text/reasoning.h"

#include <utility>

#include "common/base/check.h"
#include "router/text/partial_match.h"

namespace choir {
ReasoningSplitter::ReasoningSplitter(ReasoningTags tags, bool starts_inside)
    : tags_(std::move(tags)), inside_(starts_inside), skip_newlines_(starts_inside) {
  CHOIR_CHECK(!tags_.open.empty() && !tags_.close.empty());
}

void ReasoningSplitter::Emit(std::string_view text, std::string* to) {
  if (skip_newlines_) {
    const size_t first = text.find_first_not_of("\r\n");
    if (first == std::string_view::npos) return;
    text.remove_prefix(first);
    skip_newlines_ = false;
  }
  to->append(text);
}

bool ReasoningSplitter::TakeStart(bool last, Piece* piece) {
  const size_t first = held_.find_first_not_of(" \t\r\n", blanks_);
  blanks_ = first == std::string::npos ? held_.size() : first;
  const std::string_view rest =
      first == std::string::npos ? std::string_view() : std::string_view(held_).substr(first);
  if (rest.substr(0, tags_.open.size()) == tags_.open) {
    held_.erase(0, first + tags_.open.size());
    inside_ = true;
    skip_newlines_ = true;
    at_start_ = false;
    return true;
  }
  const bool may_come = rest.size() < tags_.open.size() && tags_.open.starts_with(rest);
  if (may_come && !last) return false;
  at_start_ = false;
  if (!inside_) Emit(std::exchange(held_, ""), &piece->content);
  return true;
}

bool ReasoningSplitter::TakeReasoning(bool last, Piece* piece) {
  const size_t end = held_.find(tags_.close);
  if (end != std::string::npos) {
    Emit(std::string_view(held_).substr(0, end), &piece->reasoning);
    held_.erase(0, end + tags_.close.size());
    inside_ = false;
    skip_newlines_ = true;
    return true;
  }
  const size_t sure = held_.size() - (last ? 0 : PartialMatch(held_, tags_.close));
  Emit(std::string_view(held_).substr(0, sure), &piece->reasoning);
  held_.erase(0, sure);
  return false;
}

ReasoningSplitter::Piece ReasoningSplitter::Push(std::string_view text) {
  Piece piece;
  held_.append(text);
  if (at_start_ && !TakeStart(false, &piece)) return piece;
  if (inside_ && !TakeReasoning(false, &piece)) return piece;
  Emit(std::exchange(held_, ""), &piece.content);
  return piece;
}

ReasoningSplitter::Piece ReasoningSplitter::Flush() {
  Piece piece;
  if (at_start_) TakeStart(true, &piece);
  if (inside_ && !TakeReasoning(true, &piece)) return piece;
  Emit(std::exchange(held_, ""), &piece.content);
  return piece;
}

}  // namespace choir
