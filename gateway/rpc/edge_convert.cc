#include "gateway/rpc/edge_convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

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

using Headers = std::vector<std::pair<std::string, std::string>>;

Headers ToHeaders(const google::protobuf::RepeatedPtrField<v1::EdgeLimit>& limits) {
  Headers headers;
  for (const auto& limit : limits) {
    headers.emplace_back("x-ratelimit-limit-" + limit.name(), std::to_string(limit.limit()));
    headers.emplace_back("x-ratelimit-remaining-" + limit.name(),
                         std::to_string(limit.remaining()));
    headers.emplace_back("x-ratelimit-reset-" + limit.name(), SecondsText(limit.reset_seconds()));
  }
  return headers;
}

}  // namespace

std::string SecondsText(double seconds) {
  const double whole_ms = std::ceil(seconds * 1e3 - 1e-6);
  return fmt::format("{}s", std::max(0.0, whole_ms) / 1e3);
}

void FillOpen(uint64_t id, const EdgeOpenInfo& info, v1::EdgeOpen* open) {
  open->set_id(id);
  open->set_bearer(info.bearer);
  open->set_source(info.source);
  open->set_route(info.route);
  open->set_client_request_id(info.client_request_id);
  open->set_timeout_ms(info.timeout_ms);
  open->set_trace_parent(info.trace_parent);
  if (!info.session.empty()) open->set_session(info.session);  // goes before the body's
  open->set_no_cache(info.no_cache);
  open->set_admission_class(info.admission_class);
  open->set_window_bytes(info.window_bytes);
  open->set_resume_state(info.resume_state);
}

void FillAttach(const std::string& request_id, const StreamPosition& position,
                v1::EdgeAttach* attach) {
  attach->set_request_id(request_id);
  attach->set_choices(static_cast<uint32_t>(position.size()));
  for (size_t i = 0; i < position.size(); ++i) {
    if (!position[i].begun) continue;
    v1::EdgePosition* to = attach->add_positions();
    to->set_choice(static_cast<uint32_t>(i));
    to->set_tokens(position[i].tokens);
    to->set_finished(position[i].finished);
  }
}

void FillRequest(const ApiRequest& r, size_t prompt, v1::EdgeOpen* open) {
  open->set_session(r.session);
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
  generate->set_echo(r.echo);
  const ApiPrompt& given = r.prompts[prompt];
  if (given.is_text) {
    generate->set_prompt(given.text);
  } else {
    generate->mutable_token_ids()->mutable_ids()->Add(given.ids.begin(), given.ids.end());
  }
  FillSampling(r.sampling, generate->mutable_sampling());
}

RestError ToRestError(const v1::EdgeError& e) {
  return {.http = static_cast<int>(e.http()),
          .type = e.type(),
          .code = e.code(),
          .message = e.message(),
          .param = e.param(),
          .retry_after_seconds = e.retry_after_seconds(),
          .audit_receipt = e.audit_receipt(),
          .request_id = e.request_id(),
          .limit_headers = ToHeaders(e.limits())};
}

EdgeAcceptedInfo ToAccepted(const v1::EdgeAccepted& a) {
  return {.request_id = a.request_id(),
          .audit_receipt = a.audit_receipt(),
          .resume_state = a.resume_state(),
          .recalled = a.recalled(),
          .headers = ToHeaders(a.limits())};
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
    t.text_offset = token.text_offset();
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
