// A small world of workers that die, change epochs, refuse and delay, driven by a seed, around one
// Relay with the real membership and policy. Tokens are a pure function of (prompt, seed, choice,
// position), so the undisturbed answer is known.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "router/membership/membership.h"
#include "router/relay/relay.h"

namespace choir {

// What a client of the world received.
struct Received {
  std::map<uint32_t, std::string> text;
  std::map<uint32_t, std::string> reasoning;
  std::map<uint32_t, std::vector<int32_t>> tokens;
  std::map<uint32_t, std::vector<int32_t>> logprob_tokens;
  std::map<uint32_t, std::string> finish;
  bool finished = false;
  Usage usage;
  std::optional<ApiError> error;
};

class LossyWorld : public Placer {
 public:
  LossyWorld(RelayRequest request, uint64_t seed, int num_workers);

  // Runs `steps` random events with the given share of disasters (0..1), then calmly to the end.
  void Run(int steps, double disasters);
  // Random events up to a cancel, then calmly until the workers hold nothing.
  void RunAndCancel(int steps, double disasters);

  const Received& received() const { return received_; }
  const Relay& relay() const { return relay_; }
  size_t held_by_workers() const;
  int losses() const { return losses_; }

  std::optional<Placement> Place(const PlaceQuery& query) override;
  bool MayRetry(MonoTime) override { return true; }

 private:
  struct Running {
    SequenceSubmit submit;
    std::vector<int32_t> generated;  // all, replayed ones included
  };
  struct Message {  // to the router
    bool is_state = false;
    uint64_t epoch = 0;
    std::vector<SequenceUpdate> updates;
  };
  struct Host {
    WorkerIndex index;
    bool connected = false;
    uint64_t connection = 0;
    uint64_t epoch = 1;
    std::map<SequenceId, Running> running;
    std::deque<RelayAction> inbox;
    std::deque<Message> outbox;
  };

  uint64_t Random(uint64_t n) { return rng_() % n; }
  bool Chance(double p) { return static_cast<double>(rng_() % 1000000) < p * 1e6; }
  void RandomEvent(double disasters);
  void Calm();
  void Connect(Host& host);
  void Kill(Host& host);
  void NewEpoch(Host& host);
  void TakeOne(Host& host, double disasters);
  void Step(Host& host);
  void DeliverOne(Host& host);
  void LoseAll(Host& host, LossCause cause);
  void Act(Relay::Actions actions);
  void ActOn(const DeliverAction& deliver);
  int32_t NextToken(const Running& running) const;

  std::mt19937_64 rng_;
  MonoTime now_{};
  Membership membership_;
  std::unique_ptr<Policy> policy_ = MakePolicy({});
  std::vector<Host> hosts_;
  std::map<SequenceId, WorkerIndex> live_;  // as the router believes
  uint64_t next_id_ = 1;
  int losses_ = 0;
  Received received_;
  Relay relay_;
};

}  // namespace choir
