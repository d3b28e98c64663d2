// The policy as people see it: exchanged by them, and asked what would become of a request without
// anything of it being run, counted or put on record.
#include <nlohmann/json.hpp>
#include <utility>

#include "common/base/log.h"
#include "router/core/router_core.h"
#include "router/policy/explain.h"
#include "router/policy/sticky_user.h"

namespace choir {
namespace {

using nlohmann::ordered_json;

ordered_json ToJson(const ExplainedRank& rank) {
  ordered_json out = {{"worker", rank.worker->identity->worker_id},
                      {"epoch", rank.worker->epoch},
                      {"picked", rank.picked}};
  if (!rank.excluded.empty()) {
    out["excluded"] = rank.excluded;
    return out;
  }
  out["load"] = rank.score.load;
  out["overlap_tokens"] = rank.score.overlap_tokens;
  out["to_compute"] = rank.score.to_compute;
  out["cost"] = rank.score.cost();
  return out;
}

ordered_json ToJson(const AdmissionOutlook& outlook) {
  if (outlook.refusal) {
    const ApiError& error = *outlook.refusal;
    ordered_json out = {{"outlook", "refused"},
                        {"status", error.http},
                        {"code", error.code},
                        {"message", error.message},
                        {"retry_after", nullptr}};
    if (error.retry_after_seconds > 0) out["retry_after"] = error.retry_after_seconds;
    return out;
  }
  if (outlook.runs) return {{"outlook", "runs"}};
  ordered_json out = {{"outlook", "waits"}, {"place", outlook.place}, {"wait_seconds", nullptr}};
  if (outlook.wait_seconds) out["wait_seconds"] = *outlook.wait_seconds;
  return out;
}

}  // namespace

PrepareLimits RouterCore::TextLimits(const std::string& tenant) const {
  PrepareLimits limits;
  limits.context_length = membership_.context_length();
  if (policy_->wants_prefix()) limits.prefix_block_tokens = membership_.kv_block_tokens();
  limits.cache_salt = tenant;
  return limits;
}

void RouterCore::SetPolicy(const PolicySettings& settings) {
  if (settings == settings_.policy) return;
  settings_.policy = settings;
  policy_ = MakePolicy(settings);
  CHOIR_LOG(info, "requests are placed by {} from now on", policy_->name());
}

void RouterCore::SetContent(std::shared_ptr<const ContentRuleBook> content) {
  parts_.content = std::move(content);
}

void RouterCore::Explain(RequestInput input, ExplainDone done) {
  const auto asked = std::make_shared<Request>();
  asked->input = std::move(input);
  asked->input.resume.reset();  // it would end what it takes up
  asked->arrived = parts_.clock->Now();
  if (auto error = Check(*asked)) return done(*std::move(error));
  auto result = std::make_shared<std::variant<PreparedRequest, ApiError>>();
  const bool taken = parts_.run_text(
      [this, asked, result, limits = TextLimits(asked->tenant())] {
        *result = ReadPrompt(&asked->input, limits).prepared;
      },
      [this, asked, result, done] {
        if (auto* error = std::get_if<ApiError>(result.get())) return done(std::move(*error));
        TakeTurns();  // whoever waits and may run is before it
        done(ExplainPrepared(std::get<PreparedRequest>(*result), *asked));
      });
  if (!taken) done(Overloaded("queue_full", "too many prompts are being read", 1));
}

AdmissionOutlook RouterCore::Foresee(const PreparedRequest& prepared, const Request& asked) {
  if (auto error = CheckServing(false)) return {.refusal = std::move(error)};
  TellCapacity();
  return parts_.admission->Foresee(AdmitRequestOf(asked), WorkOf(prepared), parts_.clock->Now());
}

std::string RouterCore::ExplainPrepared(const PreparedRequest& prepared, const Request& asked) {
  PlaceQuery query;
  query.num_tokens = static_cast<uint32_t>(prepared.prompt.size());
  query.prefix = prepared.prefix.get();
  const std::string& session = asked.input.session;
  if (!session.empty()) query.session = SessionHash(asked.tenant(), session);
  const Snapshot snapshot = membership_.snapshot();
  const Explanation explained =
      choir::Explain(*policy_, membership_.ranks(), snapshot.workers, query);
  ordered_json ranks = ordered_json::array();
  for (const ExplainedRank& rank : explained.ranks) ranks.push_back(ToJson(rank));
  ordered_json page = {
      {"object", "choir.route"},   {"model", settings_.model_name},
      {"policy", policy_->name()}, {"prompt_tokens", prepared.prompt.size()},
      {"worker", nullptr},         {"reason", "no rank is ready"},
      {"ranks", std::move(ranks)}, {"admission", ToJson(Foresee(prepared, asked))}};
  page["admission"]["class"] = AdmissionClassName(*asked.admission_class);
  if (explained.pick) {
    page["worker"] = membership_.Find(explained.pick->placement.worker)->identity->worker_id;
    page["reason"] = RouteReasonName(explained.pick->reason);
  }
  if (draining_) page["reason"] = "draining: new requests are refused";
  return page.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace choir
