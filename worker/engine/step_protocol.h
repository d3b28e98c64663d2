// StepProtocol: how the ranks of an epoch agree to step together. Owner thread only; lives one
// epoch.
//
//   idle    all ranks wait for the doorbell. A rank that gets work announces the next step and
//           enters it; the bell brings the others.
//   busy    while anybody had work in the last step, every rank enters the next one unasked.
//   enter   one small all-gather: who has work. Nobody: all are idle again, without a forward. Each
//           rank's vote on the placement of experts (expert_mover.h) goes along.
//
// A model without experts needs no peers: each rank then steps alone, and only watches that the
// communicator lives.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "worker/comm/collectives.h"

namespace choir {

class StepProtocol {
 public:
  // together: the model has experts. The communicator outlives this.
  StepProtocol(Collectives* collectives, bool together)
      : collectives_(collectives), together_(together && collectives->size() > 1) {}

  // Whether this rank has to enter the next step even without own work.
  bool busy() const { return busy_; }

  // Sleeps until a peer wants a step (true), or until the timeout, a Wake or the communicator's
  // death.
  bool WaitForPeers(Duration timeout);

  // Enters the next step with all ranks; own_tokens is what this rank computes in it. False: nobody
  // has work. An error means that the communicator is dead.
  StatusOr<bool> Enter(int64_t own_tokens, uint64_t vote = 0);
  // What Enter heard.
  int64_t group_tokens() const { return group_tokens_; }
  std::span<const int64_t> tokens() const {
    return tokens_;
  }  // by rank; empty: of one that steps alone
  std::span<const uint64_t> votes() const { return votes_; }  // by rank

 private:
  Collectives* const collectives_;
  const bool together_;
  uint64_t step_ = 0;  // the next one
  bool busy_ = false;
  int64_t group_tokens_ = 0;
  std::vector<int64_t> tokens_;
  std::vector<uint64_t> votes_;
};

}  // namespace choir
