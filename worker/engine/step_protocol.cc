#include "worker/engine/step_protocol.h"

namespace choir {
namespace {

struct StepHeader {
  uint64_t step = 0;
  int64_t tokens = 0;
  uint64_t vote = 0;
};

}  // namespace

bool StepProtocol::WaitForPeers(Duration timeout) {
  return collectives_->WaitForAnnounce(step_, timeout);
}

StatusOr<bool> StepProtocol::Enter(int64_t own_tokens, uint64_t vote) {
  if (!together_) {
    CHOIR_RETURN_IF_ERROR(collectives_->status());
    return own_tokens > 0;
  }
  if (!busy_) collectives_->Announce(step_);
  const StepHeader mine = {step_, own_tokens, vote};
  std::vector<StepHeader> all(static_cast<size_t>(collectives_->size()));
  CHOIR_RETURN_IF_ERROR(collectives_->AllGather(std::as_bytes(std::span(&mine, 1)),
                                                std::as_writable_bytes(std::span(all))));
  busy_ = false;
  group_tokens_ = 0;
  tokens_.clear();
  votes_.clear();
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].step != step_) {
      const Status status =
          Internal("rank {} enters step {}, rank {} enters step {} of generation {}",
                   collectives_->rank(), step_, r, all[r].step, collectives_->generation());
      collectives_->Abort(status);
      return status;
    }
    busy_ = busy_ || all[r].tokens > 0;
    group_tokens_ += all[r].tokens;
    tokens_.push_back(all[r].tokens);
    votes_.push_back(all[r].vote);
  }
  ++step_;
  return busy_;
}

}  // namespace choir
