// What a request is made of on its way between client and worker: plain values without wire types.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/strong_id.h"

namespace choir {

// A worker's slot in this router's membership; never used again for another address.
using WorkerIndex = StrongId<struct WorkerIndexTag, uint32_t>;
// One submission of one choice to one worker. A replay is a new sequence with a new id, so whatever
// an old one still sends cannot be taken for the new one's.
using SequenceId = StrongId<struct SequenceIdTag, uint64_t>;

// Complete: every default is filled in.
struct SequenceSampling {
  uint32_t max_tokens = 1;  // generated tokens in all, replayed ones included
  double temperature = 1;
  double top_p = 1;
  int32_t top_k = -1;  // <= 0: off
  double min_p = 0;
  uint64_t seed = 0;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> stop_token_ids;
  int32_t num_logprobs = -1;  // -1: none
  int32_t priority = 0;       // at its worker; smaller first
};

struct SequenceSubmit {
  SequenceId id;
  std::vector<int32_t> token_ids;  // prompt, then committed generated tokens
  uint32_t num_prompt_tokens = 0;
  SequenceSampling sampling;
  uint32_t choice = 0;
  std::string request_id;
  std::string cache_salt;  // computed prefixes are shared among sequences of one salt only
  std::string trace_parent;
};

struct StepLogprob {
  float logprob = 0;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

// How a worker says that a sequence ended; see proto/choir/v1/worker.proto.
enum class SequenceEnd { kNone, kStop, kLength, kCancelled, kRefused, kLost };

struct SequenceUpdate {
  SequenceId id;
  std::vector<int32_t> token_ids;
  std::vector<StepLogprob> logprobs;
  SequenceEnd end = SequenceEnd::kNone;
  std::string error;
  uint32_t cached_tokens = 0;  // of the prompt, found in the worker's prefix cache
};

struct TopLogprob {
  int32_t token_id = 0;
  float logprob = 0;
  std::string bytes;
};
struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;
  std::string bytes;
  std::vector<TopLogprob> top;
  uint32_t text_offset = 0;  // characters of the choice's text before the one that it is part of
};

struct Usage {
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;
  uint32_t output_tokens = 0;
  uint32_t reasoning_tokens = 0;
};

// What one choice has to tell its client since the last time.
struct ChoiceDelta {
  uint32_t choice = 0;
  std::string text;
  std::string reasoning;
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprob> logprobs;
  std::string finish_reason;  // "", "stop", "length"
};

// An answer that was given before.
struct KnownChoice {
  std::vector<int32_t> tokens;
  std::string finish_reason;
  bool operator==(const KnownChoice&) const = default;
};
using KnownAnswer = std::vector<KnownChoice>;

}  // namespace choir
