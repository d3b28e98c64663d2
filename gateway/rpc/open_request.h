// A request that is open at a router, and what it takes to go on with it at another one: how it was
// opened, and what was delivered of it. Pure bookkeeping; one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>

#include "choir/v1/edge.pb.h"

namespace choir {

class OpenRequest {
 public:
  // `message` as it opens the request at the first router.
  explicit OpenRequest(v1::EdgeOpen message);

  const v1::EdgeOpen& message() const { return message_; }
  bool accepted() const { return accepted_; }
  bool has_window() const { return window_bytes_ != 0; }

  // False: its listener heard it before, from another router.
  bool OnAccepted(const v1::EdgeAccepted& accepted);
  // `bytes` of the window are used, and held until OnTaken.
  void OnDelta(const v1::GenerateEvent& delta, uint64_t bytes);
  void OnTaken(uint64_t bytes);
  // So many bytes of the window to give back to the router now; 0: not worth a message yet.
  uint64_t TakeGrant();

  // The message that opens it at the next router, behind what was delivered; what was not accepted
  // begins anew. `left` is the time it still has.
  const v1::EdgeOpen& Again(std::chrono::milliseconds left);

 private:
  void AdvanceAttach();

  v1::EdgeOpen message_;
  bool accepted_ = false;
  std::map<uint32_t, v1::EdgeResumeChoice> delivered_;
  // window = what the router may still send + on its way + held + ungranted
  uint64_t window_bytes_ = 0;
  uint64_t held_bytes_ = 0;       // given to the listener, not yet taken
  uint64_t ungranted_bytes_ = 0;  // taken, the router does not know yet
};

}  // namespace choir
