#include "gateway/rpc/open_request.h"

#include <algorithm>
#include <utility>

namespace choir {

OpenRequest::OpenRequest(v1::EdgeOpen message)
    : message_(std::move(message)), window_bytes_(message_.window_bytes()) {}

bool OpenRequest::OnAccepted(const v1::EdgeAccepted& accepted) {
  if (!message_.has_attach()) {
    v1::EdgeResume* resume = message_.mutable_resume();
    resume->set_request_id(accepted.request_id());
    resume->set_seed(accepted.seed());
    resume->set_audit_receipt(accepted.audit_receipt());
  }
  return !std::exchange(accepted_, true);
}

void OpenRequest::OnDelta(const v1::GenerateEvent& delta, uint64_t bytes) {
  v1::EdgeResumeChoice& choice = delivered_[delta.choice()];
  choice.set_choice(delta.choice());
  choice.mutable_token_ids()->MergeFrom(delta.token_ids());
  choice.set_text_bytes(choice.text_bytes() + delta.text().size());
  choice.set_reasoning_bytes(choice.reasoning_bytes() + delta.reasoning_text().size());
  held_bytes_ += bytes;
}

void OpenRequest::OnTaken(uint64_t bytes) {
  if (!has_window()) return;
  held_bytes_ -= std::min(bytes, held_bytes_);
  ungranted_bytes_ += bytes;
}

// Half a window at a time: few messages, and the router never waits for what is not coming.
uint64_t OpenRequest::TakeGrant() {
  if (!has_window() || ungranted_bytes_ * 2 < window_bytes_) return 0;
  return std::exchange(ungranted_bytes_, 0);
}

const v1::EdgeOpen& OpenRequest::Again(std::chrono::milliseconds left) {
  message_.set_timeout_ms(static_cast<uint32_t>(std::max<int64_t>(left.count(), 1)));
  if (has_window()) {  // what is still held here is used up already
    message_.set_window_bytes(window_bytes_ - std::min(held_bytes_, window_bytes_ - 1));
    ungranted_bytes_ = 0;
  }
  if (message_.has_attach()) {
    AdvanceAttach();
  } else if (accepted_) {
    auto* choices = message_.mutable_resume()->mutable_choices();
    choices->Clear();
    for (const auto& [index, choice] : delivered_) *choices->Add() = choice;
  }
  return message_;
}

// Only the router that holds it can go on; behind what came since.
void OpenRequest::AdvanceAttach() {
  auto* positions = message_.mutable_attach()->mutable_positions();
  for (const auto& [index, choice] : std::exchange(delivered_, {})) {
    const auto same = std::find_if(positions->begin(), positions->end(),
                                   [index = index](const auto& p) { return p.choice() == index; });
    v1::EdgePosition* position = same == positions->end() ? positions->Add() : &*same;
    position->set_choice(index);
    position->set_tokens(position->tokens() + static_cast<uint32_t>(choice.token_ids_size()));
  }
}

}  // namespace choir
