#include "router/core/validate.h"

#include <algorithm>
#include <cmath>

#include "common/base/request_id.h"

namespace choir {
namespace {

using Error = std::optional<ApiError>;

// `open_low`: the lower end itself is not allowed.
Error CheckRange(const char* field, const std::optional<double>& value, double low, double high,
                 bool open_low = false) {
  if (!value) return std::nullopt;
  const bool above = open_low ? *value > low : *value >= low;
  if (std::isfinite(*value) && above && *value <= high) return std::nullopt;
  return InvalidParam(field, fmt::format("{} is {:g}, but must be in {}{:g}, {:g}]", field, *value,
                                         open_low ? '(' : '[', low, high));
}

Error CheckCount(const char* field, const std::optional<uint32_t>& value, uint32_t low,
                 uint32_t high) {
  if (!value || (*value >= low && *value <= high)) return std::nullopt;
  return InvalidParam(field,
                      fmt::format("{} is {}, but must be in [{}, {}]", field, *value, low, high));
}

Error CheckIds(const char* field, const std::vector<int32_t>& ids, int32_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return InvalidParam(field, fmt::format("{}[{}] is {}, but token ids are in [0, {}]", field, i,
                                           ids[i], vocab_size - 1));
  }
  return std::nullopt;
}

Error CheckStops(const SamplingInput& s, int32_t vocab_size) {
  if (s.stop.size() > kStopsMax) {
    return InvalidParam("stop", fmt::format("stop has {} strings, but at most {} are allowed",
                                            s.stop.size(), kStopsMax));
  }
  for (const std::string& stop : s.stop) {
    if (stop.empty() || stop.size() > kStopBytesMax) {
      return InvalidParam(
          "stop", fmt::format("stop has a string of {} bytes, but 1 to {} are allowed", stop.size(),
                              kStopBytesMax));
    }
  }
  if (s.stop_token_ids.size() > kStopTokensMax) {
    return InvalidParam("stop_token_ids",
                        fmt::format("stop_token_ids has {} ids, but at most {} are "
                                    "allowed",
                                    s.stop_token_ids.size(), kStopTokensMax));
  }
  return CheckIds("stop_token_ids", s.stop_token_ids, vocab_size);
}

Error CheckBias(const SamplingInput& s, int32_t vocab_size) {
  if (s.logit_bias.size() > kLogitBiasMax) {
    return InvalidParam("logit_bias", fmt::format("logit_bias has {} entries, but at most {} are "
                                                  "allowed",
                                                  s.logit_bias.size(), kLogitBiasMax));
  }
  for (const auto& [id, bias] : s.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return InvalidParam("logit_bias",
                          fmt::format("logit_bias names token {}, but token ids are in "
                                      "[0, {}]",
                                      id, vocab_size - 1));
    }
    if (!(bias >= -100 && bias <= 100)) {
      return InvalidParam("logit_bias",
                          fmt::format("logit_bias of token {} is {:g}, but must be in "
                                      "[-100, 100]",
                                      id, bias));
    }
  }
  return std::nullopt;
}

Error CheckSampling(const SamplingInput& s, int32_t vocab_size) {
  if (s.top_k && *s.top_k != -1 && *s.top_k < 1) {
    return InvalidParam("top_k",
                        fmt::format("top_k is {}, but must be -1 (off) or at least 1", *s.top_k));
  }
  if (Error e = CheckRange("temperature", s.temperature, 0, 2)) return e;
  if (Error e = CheckRange("top_p", s.top_p, 0, 1, /*open_low=*/true)) return e;
  if (Error e = CheckRange("min_p", s.min_p, 0, 1)) return e;
  if (Error e = CheckRange("presence_penalty", s.presence_penalty, -2, 2)) return e;
  if (Error e = CheckRange("frequency_penalty", s.frequency_penalty, -2, 2)) return e;
  if (Error e = CheckCount("n", s.n, 1, kChoicesMax)) return e;
  if (Error e = CheckCount("logprobs", s.logprobs, 0, kLogprobsMax)) return e;
  if (Error e = CheckStops(s, vocab_size)) return e;
  return CheckBias(s, vocab_size);
}

Error CheckEcho(const RequestInput& input) {
  const SamplingInput& s = input.sampling;
  if (s.max_tokens && *s.max_tokens == 0 && !input.echo) {
    return InvalidParam("max_tokens", "max_tokens is 0, but must be at least 1 without echo");
  }
  if (!input.echo) return std::nullopt;
  if (std::holds_alternative<ChatInput>(input.content)) {
    return InvalidParam("echo", "echo is for prompts, not for messages");
  }
  if (s.logprobs) {
    return InvalidParam("echo", "echo with logprobs is not supported: a prompt's tokens have none");
  }
  return std::nullopt;
}

// As the audit log gives them, or none. It goes into another log: nothing else may.
bool IsReceipt(const std::string& receipt) {
  constexpr size_t kDigitsMax = 20;
  if (receipt.empty()) return true;
  const size_t colon = receipt.rfind(':');
  if (colon == std::string::npos || !IsRequestId(receipt.substr(0, colon))) return false;
  const std::string number = receipt.substr(colon + 1);
  return !number.empty() && number.size() <= kDigitsMax &&
         std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
}

Error CheckResume(const RequestInput& input, int32_t vocab_size) {
  if (!input.resume) return std::nullopt;
  const uint32_t n = input.sampling.n.value_or(1);
  for (const ResumedChoice& choice : input.resume->choices) {
    if (choice.choice >= n) {
      return InvalidParam("resume", fmt::format("resume names choice {} of {}", choice.choice, n));
    }
    if (Error e = CheckIds("resume", choice.token_ids, vocab_size)) return e;
  }
  if (!IsRequestId(input.resume->request_id)) {
    return InvalidParam("resume", "resume needs the request's id");
  }
  if (!IsReceipt(input.resume->audit_receipt)) {
    return InvalidParam("resume", "resume names a record that is no log:number");
  }
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> ValidateRequest(const RequestInput& input, int32_t vocab_size) {
  if (!input.client_request_id.empty() && !IsRequestId(input.client_request_id)) {
    return InvalidParam("request_id", fmt::format("request_id must be 1 to {} of letters, digits, "
                                                  "'.', '_' and '-'",
                                                  kRequestIdMax));
  }
  constexpr size_t kResumeStateMax = 4096;
  if (input.resume_state.size() > kResumeStateMax) {
    return InvalidParam("resume_state", "resume_state is larger than 4 KiB");
  }
  if (std::holds_alternative<std::monostate>(input.content)) {
    return InvalidParam("prompt", "prompt is missing: give a text, token_ids or messages");
  }
  if (const auto* text = std::get_if<PromptText>(&input.content)) {
    if (text->text.empty() && !text->add_special) {
      return InvalidParam("prompt", "prompt is empty, but at least one token is needed");
    }
  }
  if (const auto* ids = std::get_if<PromptIds>(&input.content)) {
    if (ids->ids.empty()) {
      return InvalidParam("token_ids", "token_ids is empty, but at least one token is needed");
    }
    if (Error e = CheckIds("token_ids", ids->ids, vocab_size)) return e;
  }
  if (Error e = CheckSampling(input.sampling, vocab_size)) return e;
  if (Error e = CheckEcho(input)) return e;
  return CheckResume(input, vocab_size);
}

SequenceSampling CompleteSampling(const SamplingInput& input, const SamplingDefaults& defaults,
                                  uint64_t seed) {
  SequenceSampling s;
  s.max_tokens = input.max_tokens.value_or(defaults.max_tokens);
  s.temperature = input.temperature.value_or(defaults.temperature);
  s.top_p = input.top_p.value_or(defaults.top_p);
  s.top_k = input.top_k.value_or(defaults.top_k);
  s.min_p = input.min_p.value_or(0);
  s.seed = input.seed ? static_cast<uint64_t>(*input.seed) : seed;
  s.presence_penalty = input.presence_penalty.value_or(0);
  s.frequency_penalty = input.frequency_penalty.value_or(0);
  for (const auto& [id, bias] : input.logit_bias) {
    s.bias_ids.push_back(id);
    s.bias_values.push_back(static_cast<float>(bias));
  }
  s.stop_token_ids = input.stop_token_ids;
  if (!input.ignore_eos.value_or(false)) {
    s.stop_token_ids.insert(s.stop_token_ids.end(), defaults.eos_token_ids.begin(),
                            defaults.eos_token_ids.end());
  }
  std::sort(s.stop_token_ids.begin(), s.stop_token_ids.end());
  s.stop_token_ids.erase(std::unique(s.stop_token_ids.begin(), s.stop_token_ids.end()),
                         s.stop_token_ids.end());
  s.num_logprobs = input.logprobs ? static_cast<int32_t>(*input.logprobs) : -1;
  return s;
}

}  // namespace choir
