// What crosses the engine's border: plain values, no protobuf. worker/rpc converts.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/base/strong_id.h"

namespace choir {

struct SequenceIdTag {};
using SequenceId =
    StrongId<SequenceIdTag, uint64_t>;  // unique in the process; rpc maps router ids to it

struct SamplingParams {
  double temperature = 1.0;  // 0: greedy
  double top_p = 1.0;
  int32_t top_k = 0;  // <= 0: off
  double min_p = 0.0;
  uint64_t seed = 0;
  uint32_t choice = 0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  int32_t num_logprobs = -1;  // -1: none; k: the chosen token's and the k best; of the raw logits
};

struct SequenceRequest {
  SequenceId id;
  std::vector<int32_t> tokens;  // prompt, then committed generated tokens of a replay
  int32_t num_prompt = 0;       // <= tokens.size(); penalties and positions count from here
  SamplingParams sampling;
  int32_t max_tokens = 0;  // generated tokens in all, replayed ones included; > 0
  std::vector<int32_t> stop_token_ids;
  int32_t priority = 0;    // smaller first
  std::string cache_salt;  // prefixes are shared among sequences of one salt: the tenant
};

struct SampledLogprob {
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // best first
};

enum class Finish : uint8_t { kNone, kStop, kLength, kCancelled, kRefused, kLost };

struct SequenceOutput {
  SequenceId id;
  std::vector<int32_t> tokens;
  std::vector<SampledLogprob> logprobs;  // one a token when asked for
  Finish finish = Finish::kNone;
  std::string error;          // with kRefused
  int32_t cached_tokens = 0;  // of the prompt, found in the prefix cache
};

struct EngineLoad {
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t kv_tokens_used = 0;
  uint64_t waiting_tokens = 0;
  uint64_t computed_tokens = 0;  // since the start
};

struct StepOutput {
  uint64_t step = 0;
  std::vector<SequenceOutput> updates;
  EngineLoad load;
};

}  // namespace choir
