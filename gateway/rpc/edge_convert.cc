#include "gateway/rpc/edge_convert.h"

#include <fmt/format.h>

namespace choir {
namespace {

void FillSampling(const ApiSampling& s, v1::Sampling* out) {
  if (s.max_tokens) out->set_max_tokens(*s.max_tokens);
  if (s.temperature) out->set_temperature(*s.temperature);
  if (s.top_p) out->set_top_p(*s.top_p);
  if (s.top_k) out->set_top_k(*s.top_k);
  if (s.min_p) out->set_min_p(*s.min_p);
  if (s.seed) out->set_seed(*s.seed);
  if (s.presence_penalty) out->set_presence_penalty(*s.presence_penalty);
  if (s.frequency_penalty) out->set_frequency_penalty(*s.frequency_penalty);
  if (s.ignore_eos) out->set_ignore_eos(*s.ignore_eos);
  if (s.logprobs) out->set_logprobs(*s.logprobs);
  if (s.n) out->set_n(*s.n);
  for (const auto& [id, bias] : s.logit_bias) (*out->mutable_logit_bias())[id] = bias;
  for (const std::string& stop : s.stop) out->add_stop(stop);
  for (const int32_t id : s.stop_token_ids) out->add_stop_token_ids(id);
}

}  // namespace

void FillOpen(uint64_t id, const ApiRequest& r, const EdgeOpenInfo& info, v1::EdgeOpen* open) {
  open->set_id(id);
  open->set_bearer(info.bearer);
  open->set_source(info.source);
  open->set_route(info.route);
  open->set_client_request_id(info.client_request_id);
  open->set_timeout_ms(info.timeout_ms);
  open->set_trace_parent(info.trace_parent);
  if (r.chat) {
    v1::ChatRequest* chat = open->mutable_chat();
    chat->set_model(r.model);
    chat->set_messages_json(r.messages_json);
    chat->set_template_kwargs_json(r.template_kwargs_json);
    FillSampling(r.sampling, chat->mutable_sampling());
    return;
  }
  v1::GenerateRequest* generate = open->mutable_generate();
  generate->set_model(r.model);
  generate->set_add_special(true);
  if (r.prompt) {
    generate->set_prompt(*r.prompt);
  } else {
    for (const int32_t token : r.prompt_ids) generate->mutable_token_ids()->add_ids(token);
  }
  FillSampling(r.sampling, generate->mutable_sampling());
}

ApiError ToApiError(const v1::EdgeError& e) {
  return {.http = static_cast<int>(e.http()),
          .type = e.type(),
          .code = e.code(),
          .message = e.message(),
          .param = e.param(),
          .retry_after_seconds = e.retry_after_seconds(),
          .audit_receipt = e.audit_receipt()};
}

EdgeAcceptedInfo ToAccepted(const v1::EdgeAccepted& a) {
  EdgeAcceptedInfo info{
      .request_id = a.request_id(), .audit_receipt = a.audit_receipt(), .headers = {}};
  for (const auto& limit : a.limits()) {
    info.headers.emplace_back("x-ratelimit-limit-" + limit.name(), std::to_string(limit.limit()));
    info.headers.emplace_back("x-ratelimit-remaining-" + limit.name(),
                              std::to_string(limit.remaining()));
    info.headers.emplace_back("x-ratelimit-reset-" + limit.name(),
                              fmt::format("{:.3g}s", limit.reset_seconds()));
  }
  return info;
}

ApiDelta ToDelta(const v1::GenerateEvent& e) {
  ApiDelta d{.choice = e.choice(),
             .text = e.text(),
             .reasoning = e.reasoning_text(),
             .token_ids = {e.token_ids().begin(), e.token_ids().end()},
             .logprobs = {},
             .finish_reason = e.finish_reason()};
  for (const auto& token : e.logprobs()) {
    ApiTokenLogprob t;
    t.token_id = token.token_id();
    t.logprob = token.logprob();
    t.token = token.token();
    for (const auto& top : token.top())
      t.top.push_back({top.token_id(), top.logprob(), top.token()});
    d.logprobs.push_back(std::move(t));
  }
  return d;
}

ApiUsage ToUsage(const v1::Usage& u) {
  return {.prompt_tokens = u.prompt_tokens(),
          .cached_tokens = u.cached_tokens(),
          .output_tokens = u.output_tokens(),
          .reasoning_tokens = u.reasoning_tokens()};
}

}  // namespace choir
