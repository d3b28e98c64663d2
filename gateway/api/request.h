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

struct ApiPrompt {
  bool is_text = true;
  std::string text;
  std::vector<int32_t> ids;
};

struct ApiRequest {
  bool chat = false;
  std::string model;
  ApiSampling sampling;
  std::string session;  // `user`
  bool stream = false;
  bool include_usage = false;

  // chat: JSON texts, exactly as given
  std::string messages_json;
  std::string template_kwargs_json;
  // completions: the choices of prompt i are i * n and the following
  std::vector<ApiPrompt> prompts;
  bool echo = false;
};

// Body text to request. An error's `param` names the field; codes and ranges are the contract's.
RestError ParseChatRequest(const std::string& body, ApiRequest* request);
RestError ParseCompletionRequest(const std::string& body, ApiRequest* request);
// A chat's when it has `messages`, else a completion's.
RestError ParseAnyRequest(const std::string& body, ApiRequest* request);

// Of one request: prompts times n.
inline constexpr uint64_t kRequestChoicesMax = 128;

// The router's errors name its own fields; a client of /v1/completions gave `prompt`, not
// `token_ids`.
void NameCompletionFields(RestError* error);

inline constexpr int kJsonDepthMax = 64;

}  // namespace choir
