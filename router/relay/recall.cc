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
  for (const int32_t token : known.tokens) {
    if (choice.finished) break;
    if (delta.token_ids.size() == kTokensOfPiece) {
      out->push_back(DeliverAction{std::exchange(delta, {.choice = index})});
    }
    choice.tokens.push_back(token);
    delta.token_ids.push_back(token);
    choice.finished = Append(choice.text.Push(token), &delta);
  }
  if (!choice.finished) {  // the worker had ended it
    choice.finished = Append(choice.text.End(known.finish_reason), &delta);
  }
  finish_reasons_[index] = delta.finish_reason;
  out->push_back(DeliverAction{std::move(delta)});
}

}  // namespace choir
