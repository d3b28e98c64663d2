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
#include "common/base/status.h"
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

// What a client has of a choice.
struct DeliveredChoice {
  uint32_t choice = 0;
  uint32_t tokens = 0;
  bool finished = false;
};

struct RelayLimits {
  // Submissions of one choice in a row that gave no token: the request itself may be what kills.
  uint32_t fruitless_attempts_max = 32;
  // How long a worker that lost or refused a choice is passed over while its epoch stays the same.
  Duration cooldown = std::chrono::seconds(1);
  // Of a request that is kept for DeliverAgain: beyond it, it cannot be delivered again.
  size_t kept_logprob_bytes_max = 16 << 20;
};

struct RelayRequest {
  std::string request_id;
  std::string cache_salt;  // the tenant: what it asked is not felt by others
  std::vector<int32_t> prompt;
  SequenceSampling sampling;
  uint32_t num_choices = 1;
  ChoiceTextOptions text;
  MonoTime deadline;
  double timeout_seconds = 0;  // as the client was promised, for its error
  std::vector<ResumedChoice> resume;
  std::shared_ptr<const PromptPrefix> prefix;  // null: placed without it
  uint64_t session = 0;                        // as PlaceQuery's
  std::string echo;            // each choice's text begins with it; stop strings do not act in it
  bool keep_logprobs = false;  // for DeliverAgain
};

struct SubmitAction {
  WorkerIndex worker;
  SequenceSubmit submit;
  uint32_t counted_tokens = 0;  // as Placement's
  uint32_t predicted_tokens = 0;
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
  // Whether a request without a token may be run again; counts it when it may.
  virtual bool MayRetry(MonoTime now) = 0;
};

// Why a sequence must be run again.
enum class LossCause { kWorkerLost, kEpochEnded, kRefused };
const char* LossCauseName(LossCause cause);

// Tokens of one delta where many are delivered at once.
inline constexpr size_t kTokensOfPiece = 64;

class Relay {
 public:
  // `placer` and `next_id` (the process-wide source of sequence ids) outlive the relay.
  Relay(RelayRequest request, RelayLimits limits, Placer* placer, uint64_t* next_id);

  using Actions = std::vector<RelayAction>;
  void Start(MonoTime now, Actions* out);
  // In place of Start: the answer is known, by choice. Nothing is placed.
  void Recall(const KnownAnswer& answer, Actions* out);
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

  // What was delivered so far behind what a client has (choices that are not named: it has nothing
  // of them), in pieces of moderate size. `choices` is how many it believes there are, 0 when it
  // does not say. InvalidArgument: nobody can have that; NotFound: not all of it is kept.
  StatusOr<std::vector<ChoiceDelta>> DeliverAgain(const std::vector<DeliveredChoice>& has,
                                                  uint32_t choices) const;

  MonoTime NextTimer() const;
  bool over() const { return over_; }
  bool waiting() const;  // some choice has no rank
  Usage usage() const;
  uint32_t replays() const { return replays_; }
  const std::vector<std::string>& finish_reasons() const { return finish_reasons_; }
  uint32_t num_choices() const { return request_.num_choices; }
  // What a choice has generated so far.
  const std::vector<int32_t>& committed(uint32_t choice) const { return choices_[choice]->tokens; }
  // Content rules that acted on its answer.
  std::vector<RuleHits> content_hits() const;
  const std::string& request_id() const { return request_.request_id; }
  bool has_prefix() const { return request_.prefix != nullptr; }

 private:
  struct Passed {
    Placement placement;
    MonoTime until;
    bool refused = false;
  };
  struct Choice {
    explicit Choice(const ChoiceTextOptions& options) : text(options) {}
    ChoiceText text;
    std::vector<int32_t> tokens;        // committed
    std::vector<StepLogprob> logprobs;  // kept, of the last tokens
    bool finished = false;
    std::optional<SequenceId> sequence;  // current
    Placement placement;                 // of `sequence`
    uint32_t fruitless_attempts = 0;
    std::vector<Passed> passed;
    std::string last_error;
  };

  void Begin(uint32_t index, const ResumedChoice& resumed, Actions* out);
  void RecallOne(uint32_t index, const KnownChoice& known, Actions* out);
  void PlaceAll(MonoTime now, Actions* out);
  void PlaceOne(uint32_t index, Actions* out);
  // True when the piece ends its choice.
  static bool Append(ChoiceText::Piece piece, ChoiceDelta* delta);
  bool Commit(Choice& choice, const SequenceUpdate& update, size_t i, ChoiceDelta* delta);
  void AddLogprob(Choice& choice, const SequenceUpdate& update, size_t i, ChoiceDelta* delta);
  TokenLogprob MakeLogprob(const StepLogprob& from, int32_t token, uint32_t num_chars) const;
  void AppendAgain(uint32_t index, const DeliveredChoice* has,
                   std::vector<ChoiceDelta>* deltas) const;
  void Replay(uint32_t index, LossCause cause, MonoTime now, Actions* out);
  bool RetryRefused(MonoTime now);
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
  uint32_t echo_chars_ = 0;
  size_t kept_logprob_bytes_ = 0;
  std::string numerics_id_;  // bound with the first committed token
  std::optional<uint32_t> cached_tokens_;
  uint32_t replays_ = 0;
  std::optional<MonoTime> retried_at_;  // choices lost at one moment are one retry
  bool over_ = false;
};

}  // namespace choir
