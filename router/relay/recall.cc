// An answer that was given before, given again: by the code that makes text of a worker's tokens.
#include <utility>

#include "common/base/check.h"
#include "router/relay/relay.h"

namespace choir {

void Relay::Recall(const KnownAnswer& answer, Actions* out) {
  CHOIR_CHECK(answer.size() == choices_.size());
  cached_tokens_ = static_cast<uint32_t>(request_.prompt.size());
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    Begin(i, {}, out);
    if (!choices_[i]->finished) RecallOne(i, answer[i], out);
  }
  FinishIfDone(out);
}

void Relay::RecallOne(uint32_t index, const KnownChoice& known, Actions* out) {
  CHOIR_CHECK(!known.finish_reason.empty());
  Choice& choice = *choices_[index];
  ChoiceDelta delta{.choice = index};
  const auto add = [&](ChoiceText::Piece piece) {
    delta.text += piece.text;
    delta.reasoning += piece.reasoning;
    delta.finish_reason = std::move(piece.finish_reason);
    choice.finished = !delta.finish_reason.empty();
  };
  for (const int32_t token : known.tokens) {
    if (choice.finished) break;
    if (delta.token_ids.size() == kTokensOfPiece) {
      out->push_back(DeliverAction{std::exchange(delta, {.choice = index})});
    }
    choice.tokens.push_back(token);
    delta.token_ids.push_back(token);
    add(choice.text.Push(token));
  }
  if (!choice.finished) add(choice.text.End(known.finish_reason));  // the worker had ended it
  finish_reasons_[index] = delta.finish_reason;
  out->push_back(DeliverAction{std::move(delta)});
}

}  // namespace choir
