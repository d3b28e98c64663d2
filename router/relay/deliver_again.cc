// What a relay delivered, delivered again: made anew from the committed tokens, so that nothing but
// them (and log probabilities, where they were asked for) has to be kept.
#include <algorithm>
#include <utility>

#include "router/relay/relay.h"

namespace choir {

StatusOr<std::vector<ChoiceDelta>> Relay::DeliverAgain(const std::vector<DeliveredChoice>& has,
                                                       uint32_t choices) const {
  if (choices != 0 && choices != choices_.size()) {
    return InvalidArgument("last-event-id: is of {} choices, the stream has {}", choices,
                           choices_.size());
  }
  std::vector<const DeliveredChoice*> of(choices_.size());
  for (const DeliveredChoice& one : has) {
    if (one.choice >= choices_.size()) {
      return InvalidArgument("last-event-id: names choice {} of {}", one.choice, choices_.size());
    }
    const Choice& choice = *choices_[one.choice];
    if (one.tokens > choice.tokens.size() || (one.finished && !choice.finished)) {
      return InvalidArgument("last-event-id: is beyond what was sent of choice {}", one.choice);
    }
    of[one.choice] = &one;
  }
  std::vector<ChoiceDelta> deltas;
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = *choices_[i];
    const size_t from = of[i] == nullptr ? 0 : of[i]->tokens;
    if (request_.sampling.num_logprobs >= 0 &&
        choice.logprobs.size() < choice.tokens.size() - from) {
      return NotFound("the log probabilities of choice {} are kept no longer", i);
    }
    AppendAgain(i, of[i], &deltas);
  }
  return deltas;
}

void Relay::AppendAgain(uint32_t index, const DeliveredChoice* has,
                        std::vector<ChoiceDelta>* deltas) const {
  const Choice& choice = *choices_[index];
  if (has != nullptr && has->tokens >= choice.tokens.size() && has->finished == choice.finished) {
    return;
  }
  const size_t from = has == nullptr ? 0 : has->tokens;
  const size_t unkept = choice.tokens.size() - choice.logprobs.size();  // the first so many
  ChoiceText text(request_.text);
  ChoiceDelta delta{.choice = index};
  if (has == nullptr) delta.text = request_.echo;
  bool text_over = false;
  for (size_t i = 0; i < choice.tokens.size(); ++i) {
    const int32_t token = choice.tokens[i];
    const uint32_t num_chars = text.num_chars();
    ChoiceText::Piece piece = text.Push(token);
    text_over = !piece.finish_reason.empty();
    if (i < from) continue;
    delta.token_ids.push_back(token);
    delta.text += piece.text;
    delta.reasoning += piece.reasoning;
    if (i >= unkept) {
      delta.logprobs.push_back(MakeLogprob(choice.logprobs[i - unkept], token, num_chars));
    }
    if (delta.token_ids.size() < kTokensOfPiece) continue;
    deltas->push_back(std::exchange(delta, {.choice = index}));
  }
  if (choice.finished && (has == nullptr || !has->finished)) {
    if (!text_over && !choice.tokens.empty()) {  // the worker's own limit ended it
      ChoiceText::Piece rest = text.End(finish_reasons_[index]);
      delta.text += rest.text;
      delta.reasoning += rest.reasoning;
    }
    delta.finish_reason = finish_reasons_[index];
  }
  if (!delta.token_ids.empty() || !delta.text.empty() || !delta.reasoning.empty() ||
      !delta.finish_reason.empty()) {
    deltas->push_back(std::move(delta));
  }
}

}  // namespace choir
