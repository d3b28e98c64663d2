// A client's request as the gateway understands it, free of JSON and of the wire: what to send
// upstream and how to shape the answer.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gateway/api/api_error.h"

namespace choir {

struct ApiSampling {
  std::optional<uint32_t> max_tokens;
  std::optional<double> temperature, top_p, min_p, presence_penalty, frequency_penalty;
  std::optional<int32_t> top_k;
  std::optional<int64_t> seed;
  std::optional<uint32_t> n, logprobs;
  std::optional<bool> ignore_eos;
  std::map<int32_t, double> logit_bias;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
};

struct ApiRequest {
  bool chat = false;
  std::string model;
  ApiSampling sampling;
  bool stream = false;
  bool include_usage = false;

  // chat: JSON texts, exactly as given
  std::string messages_json;
  std::string template_kwargs_json;
  // completions: one of the two
  std::optional<std::string> prompt;
  std::vector<int32_t> prompt_ids;
};

// Body text to request. An error's `param` names the field; codes and ranges are the contract's.
ApiError ParseChatRequest(const std::string& body, ApiRequest* request);
ApiError ParseCompletionRequest(const std::string& body, ApiRequest* request);

// The router's errors name its own fields; a client of /v1/completions gave `prompt`, not
// `token_ids`.
void NameCompletionFields(ApiError* error);

inline constexpr int kJsonDepthMax = 64;

}  // namespace choir
