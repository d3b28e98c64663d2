// A request as it enters the router, whichever surface it came by, and the way back to its client.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/tls/certificate.h"
#include "router/base/api_error.h"
#include "router/base/types.h"
#include "router/content/content_rules.h"
#include "router/relay/relay.h"

namespace choir {

// As the client gave it; absent fields get the model's defaults.
struct SamplingInput {
  std::optional<uint32_t> max_tokens;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int32_t> top_k;
  std::optional<double> min_p;
  std::optional<int64_t> seed;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::map<int32_t, double> logit_bias;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  std::optional<bool> ignore_eos;
  std::optional<uint32_t> logprobs;
  std::optional<uint32_t> n;
};

struct PromptText {
  std::string text;
  bool add_special = false;
};
struct PromptIds {
  std::vector<int32_t> ids;
};
struct ChatInput {
  std::string messages_json;
  std::string tools_json;
  std::string template_kwargs_json;
};

struct ResumeInput {
  std::string request_id;
  int64_t seed = 0;
  std::vector<ResumedChoice> choices;
  std::string audit_receipt;  // of the intent that this one continues; empty: unknown
};

struct RequestInput {
  std::string bearer;
  PeerCertificate certificate;  // the client's, judged
  std::string source;
  std::string route;
  std::string client_request_id;
  std::string trace_parent;
  std::string session;         // the user or session that the client named; may be empty
  bool no_cache = false;       // the answer is computed, and not kept for others
  std::string wanted_class;    // of admission; empty: its own
  double timeout_seconds = 0;  // 0: the router's default
  std::string model;
  std::variant<std::monostate, PromptText, PromptIds, ChatInput> content;
  bool echo = false;  // each choice's text begins with the prompt's; never with ChatInput
  SamplingInput sampling;
  std::optional<ResumeInput> resume;
  // Of its tenant, once it is known; null: none.
  std::shared_ptr<const ContentRules> input_rules, output_rules;
  std::string resume_state;  // of the gateways; not empty: the stream may outlive its gateway
};

// Takes up a stream that lost its gateway.
struct AttachInput {
  std::string bearer;
  std::string source;
  std::string request_id;
  std::vector<DeliveredChoice> position;
  uint32_t choices = 0;  // as the client believes; 0: it does not say
};

struct AcceptedInfo {
  std::string request_id;  // for the client
  int64_t seed = 0;
  std::vector<int32_t> prompt;
  std::string audit_receipt;
  std::vector<LimitReading> limits = {};
  bool recalled = false;      // an answer that was given before
  bool hides_tokens = false;  // content rules hold for the text: its tokens are nobody's business
  std::string resume_state;   // of a stream that was taken up
};

struct FailedInfo {
  std::string request_id;  // for the client
  std::string audit_receipt;
  std::vector<LimitReading> limits = {};
};

// The client's end of one request. Called by the owner thread; must not block. After Done or Fail
// nothing more is called. False: the client reads too slowly and its bounded buffer is full.
class ClientStream {
 public:
  virtual ~ClientStream() = default;
  virtual bool Accepted(const AcceptedInfo& info) = 0;
  virtual bool Delta(ChoiceDelta delta) = 0;
  virtual void Done(const Usage& usage) = 0;
  virtual void Fail(const ApiError& error, const FailedInfo& info) = 0;
};

}  // namespace choir
