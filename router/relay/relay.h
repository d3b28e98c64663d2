// One request from dispatch to end: places each choice on a worker, commits its tokens in order,
// turns them into text, and, when a worker or an epoch is lost, replays prompt + committed tokens
// on another rank of the same numerics id, so that the client's stream goes on as if nothing had
// happened.
//
// A pure state machine: inputs are the methods below, outputs are actions appended to `out`, time
// is an argument. One thread. Every sequence that a Submit action names ends in exactly one of: an
// update with an end, OnLost, or a CancelSequence action (the caller then waits for the worker's
// acknowledgement).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/base/clock.h"
#include "router/base/api_error.h"
#include "router/base/types.h"
#include "router/policy/policy.h"
#include "router/relay/choice_text.h"

namespace choir {

// A choice that another router had begun to deliver.
struct ResumedChoice {
  uint32_t choice = 0;
  std::vector<int32_t> token_ids;  // delivered
  uint64_t text_bytes = 0;         // delivered
  uint64_t reasoning_bytes = 0;
};

struct RelayLimits {
  // Submissions of one choice in a row that gave no token: the request itself may be what kills.
  uint32_t fruitless_attempts_max = 32;
  // How long a worker that lost or refused a choice is passed over while its epoch stays the same.
  Duration cooldown = std::chrono::seconds(1);
};

struct RelayRequest {
  std::string request_id;
  std::vector<int32_t> prompt;
  SequenceSampling sampling;
  uint32_t num_choices = 1;
  ChoiceTextOptions text;
  MonoTime deadline;
  double timeout_seconds = 0;  // as the client was promised, for its error
  std::vector<ResumedChoice> resume;
};

struct SubmitAction {
  WorkerIndex worker;
  SequenceSubmit submit;
};
struct CancelSequenceAction {
  WorkerIndex worker;
  SequenceId id;
};
struct DeliverAction {
  ChoiceDelta delta;
};
struct FinishAction {
  Usage usage;
};
struct FailAction {
  ApiError error;
};
using RelayAction =
    std::variant<SubmitAction, CancelSequenceAction, DeliverAction, FinishAction, FailAction>;

// Chooses the rank for a sequence and counts it as that rank's load from then on.
class Placer {
 public:
  virtual ~Placer() = default;
  virtual std::optional<Placement> Place(const PlaceQuery& query) = 0;
};

// Why a sequence must be run again.
enum class LossCause { kWorkerLost, kEpochEnded, kRefused };
const char* LossCauseName(LossCause cause);

class Relay {
 public:
  // `placer` and `next_id` (the process-wide source of sequence ids) outlive the relay.
  Relay(RelayRequest request, RelayLimits limits, Placer* placer, uint64_t* next_id);

  using Actions = std::vector<RelayAction>;
  void Start(MonoTime now, Actions* out);
  // An update of a sequence that is not current is ignored.
  void OnUpdate(const SequenceUpdate& update, MonoTime now, Actions* out);
  void OnLost(SequenceId id, LossCause cause, MonoTime now, Actions* out);
  // A rank became ready.
  void OnPlaceable(MonoTime now, Actions* out);
  // Deadline and cooldowns; call at NextTimer() or later.
  void OnTimer(MonoTime now, Actions* out);
  // The client went away, or the request is ended from above: sequences are cancelled, nothing is
  // delivered.
  void Abort(const ApiError& error, Actions* out);

  MonoTime NextTimer() const;
  bool over() const { return over_; }
  bool waiting() const;  // some choice has no rank
  Usage usage() const;
  uint32_t replays() const { return replays_; }
  const std::vector<std::string>& finish_reasons() const { return finish_reasons_; }
  const std::string& request_id() const { return request_.request_id; }

 private:
  struct Passed {
    Placement placement;
    MonoTime until;
    bool refused = false;
  };
  struct Choice {
    explicit Choice(const ChoiceTextOptions& options) : text(options) {}
    ChoiceText text;
    std::vector<int32_t> tokens;  // committed
    bool finished = false;
    std::optional<SequenceId> sequence;  // current
    Placement placement;                 // of `sequence`
    uint32_t fruitless_attempts = 0;
    std::vector<Passed> passed;
    std::string last_error;
  };

  void Preload(const ResumedChoice& resumed, Actions* out);
  void PlaceAll(MonoTime now, Actions* out);
  void PlaceOne(uint32_t index, Actions* out);
  bool Commit(Choice& choice, const SequenceUpdate& update, size_t i, ChoiceDelta* delta);
  void AddLogprob(const SequenceUpdate& update, size_t i, ChoiceDelta* delta) const;
  void Replay(uint32_t index, LossCause cause, MonoTime now, Actions* out);
  void FinishIfDone(Actions* out);
  void CancelAll(Actions* out);
  void Fail(ApiError error, Actions* out);
  static bool IsRefusedEverywhere(const Choice& choice);

  RelayRequest request_;
  RelayLimits limits_;
  Placer* placer_;
  uint64_t* next_id_;
  std::vector<std::unique_ptr<Choice>> choices_;
  std::vector<std::string> finish_reasons_;
  std::map<SequenceId, uint32_t> by_sequence_;
  std::string numerics_id_;  // bound with the first committed token
  std::optional<uint32_t> cached_tokens_;
  uint32_t replays_ = 0;
  bool over_ = false;
};

}  // namespace choir
