// Shapes answers: OpenAI's chat and completion objects and chunks, with DeepSeek's additions. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "gateway/api/api_error.h"
#include "gateway/api/request.h"
#include "gateway/api/stream_position.h"

namespace choir {

struct ApiLogprob {
  int32_t token_id = 0;
  float logprob = 0;
  std::string token;  // bytes
};
struct ApiTokenLogprob : ApiLogprob {
  std::vector<ApiLogprob> top;
  uint32_t text_offset = 0;  // in characters
};

struct ApiUsage {
  uint32_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0, reasoning_tokens = 0;
};

// What came from the router for one choice.
struct ApiDelta {
  uint32_t choice = 0;
  std::string text, reasoning;
  std::vector<int32_t> token_ids;
  std::vector<ApiTokenLogprob> logprobs;
  std::string finish_reason;  // "" while it goes on
};

struct ApiIdentity {
  std::string request_id;
  std::string model;
  int64_t created = 0;  // unix seconds
};

// Server-sent events of one streamed answer.
class StreamWriter {
 public:
  // `position` is what the client has already; one that is not empty numbers the choices, and each
  // event gets the client's position behind it as its id.
  StreamWriter(const ApiRequest& request, ApiIdentity identity, StreamPosition position = {});
  std::string Delta(const ApiDelta& delta);  // none, one or two `data:` events
  std::string Done(const ApiUsage& usage);   // the usage chunk when asked for, then [DONE]
  static std::string Error(const RestError& error);
  // A comment alone, between two events. An empty line behind it would be the end of an event: the
  // official OpenAI client takes it for one once an event had an id, and fails on its empty data.
  static std::string KeepAlive() { return ": keep-alive\n"; }
  uint64_t events() const { return events_; }

 private:
  std::string Event(const std::string& choices, const std::string& usage, const std::string& id);
  std::string Advance(const ApiDelta& delta);

  const bool chat_, include_usage_, want_logprobs_;
  const ApiIdentity identity_;
  std::string head_;  // of every chunk, up to choices
  std::map<uint32_t, bool> role_sent_, finished_;
  StreamPosition position_;
  uint64_t events_ = 0;
};

// Collects a whole answer and makes one object of it.
class ResponseCollector {
 public:
  ResponseCollector(const ApiRequest& request, ApiIdentity identity);
  void Add(const ApiDelta& delta);
  std::string Body(const ApiUsage& usage) const;

 private:
  struct Choice {
    std::string text, reasoning, finish_reason;
    std::vector<ApiTokenLogprob> logprobs;
  };
  const bool chat_, want_logprobs_;
  const ApiIdentity identity_;
  std::map<uint32_t, Choice> choices_;
};

struct ApiModel {
  std::string id;
  int64_t created = 0;
  uint32_t context_length = 0;
};
std::string ModelBody(const ApiModel& model);
std::string ModelListBody(const std::vector<ApiModel>& models);

}  // namespace choir
