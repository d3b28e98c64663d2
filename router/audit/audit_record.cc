#include "router/audit/audit_record.h"

#include <cmath>

#include "router/audit/token_bytes.h"

namespace choir {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kIntegerMax = uint64_t{1} << 53;

// Microseconds are enough.
double Milliseconds(double ms) { return std::round(ms * 1000) / 1000; }

// The second field of a traceparent.
std::string TraceId(const std::string& trace_parent) {
  if (trace_parent.size() < 35 || trace_parent[2] != '-') return "";
  return trace_parent.substr(3, 32);
}

Json Common(const char* phase, const AuditRequest& r) {
  Json record = {
      {"phase", phase},     {"request_id", r.request_id},  {"trace_id", TraceId(r.trace_parent)},
      {"tenant", r.tenant}, {"principal", r.principal},    {"auth", r.auth},
      {"key_fp", r.key_fp}, {"source", r.source},          {"route", r.route},
      {"model", r.model},   {"numerics_id", r.numerics_id}};
  if (!r.client_request_id.empty()) record["client_request_id"] = r.client_request_id;
  if (!r.admission_class.empty()) record["class"] = r.admission_class;
  return record;
}

Json Params(const AuditIntent& intent) {
  const SequenceSampling& s = intent.sampling;
  Json params = {{"max_tokens", s.max_tokens},
                 {"temperature", s.temperature},
                 {"top_p", s.top_p},
                 {"top_k", s.top_k},
                 {"min_p", s.min_p},
                 {"seed", AuditInteger(s.seed)},
                 {"presence_penalty", s.presence_penalty},
                 {"frequency_penalty", s.frequency_penalty},
                 {"n", intent.num_choices},
                 {"stop_token_ids", s.stop_token_ids},
                 {"logprobs", s.num_logprobs}};
  Json bias = Json::array();
  for (size_t i = 0; i < s.bias_ids.size(); ++i) bias.push_back({s.bias_ids[i], s.bias_values[i]});
  params["logit_bias"] = std::move(bias);
  params["stop"] = intent.stop;
  return params;
}

void AddContent(const ContentPolicy& content, const std::string& request_id,
                const char* digest_name, const std::string& bytes, Json* record) {
  if (content.key == nullptr) return;
  (*record)[digest_name] = KeyedDigest(*content.key, bytes);
  if (!content.capture) return;
  const std::string context = request_id + "/" + digest_name;
  (*record)["content"] = {{"alg", "AES-256-GCM"},
                          {"sealed", SealContent(*content.key, context, bytes)}};
}

void AddRuleHits(const std::vector<RuleHits>& hits, Json* record) {
  if (hits.empty()) return;
  Json rules = Json::array();
  for (const RuleHits& hit : hits) rules.push_back({{"rule", hit.rule}, {"count", hit.count}});
  (*record)["content_rules"] = std::move(rules);
}

}  // namespace

Json AuditInteger(uint64_t value) {
  return value < kIntegerMax ? Json(value) : Json(std::to_string(value));
}

Json IntentRecord(const AuditIntent& intent, const ContentPolicy& content) {
  Json record = Common("intent", intent.request);
  record["params"] = Params(intent);
  record["prompt_tokens"] = intent.prompt.size();
  record["limit"] = {{"decision", "admitted"}, {"rule", intent.limit_rule}};
  record["queue_ms"] = Milliseconds(intent.queue_ms);
  AddRuleHits(intent.content_hits, &record);
  if (!intent.continues.empty()) record["continues"] = intent.continues;
  AddContent(content, intent.request.request_id, "prompt_digest", TokenBytes(intent.prompt),
             &record);
  return record;
}

Json OutcomeRecord(const AuditOutcome& o, const ContentPolicy& content) {
  Json record = Common("outcome", o.request);
  record["prompt_tokens"] = o.usage.prompt_tokens;
  record["cached_tokens"] = o.usage.cached_tokens;
  record["output_tokens"] = o.usage.output_tokens;
  record["reasoning_tokens"] = o.usage.reasoning_tokens;
  Json workers = Json::array();
  for (const AuditService& s : o.workers) {
    workers.push_back(
        {{"worker", s.worker}, {"epoch", s.epoch}, {"choice", s.choice}, {"from", s.from}});
  }
  record["workers"] = std::move(workers);
  if (o.recalled) record["result_cache"] = "hit";
  Json lengths = Json::array();
  for (const std::vector<int32_t>& ids : o.outputs) lengths.push_back(ids.size());
  record["output_lengths"] = std::move(lengths);
  record["finish"] = o.finish.empty() ? Json() : Json(o.finish);
  record["status"] = o.status;
  if (!o.code.empty()) record["code"] = o.code;
  record["ttft_ms"] = o.ttft_ms ? Json(Milliseconds(*o.ttft_ms)) : Json();
  record["duration_ms"] = Milliseconds(o.duration_ms);
  AddRuleHits(o.content_hits, &record);
  AddContent(content, o.request.request_id, "output_digest", OutputBytes(o.outputs), &record);
  return record;
}

Json RefusedRecord(const AuditRefusal& r) {
  Json record = Common("refused", r.request);
  record["status"] = r.status;
  record["code"] = r.code;
  record["limit"] = {{"decision", "refused"},
                     {"rule", r.limit_rule.empty() ? r.code : r.limit_rule}};
  record["duration_ms"] = Milliseconds(r.duration_ms);
  AddRuleHits(r.content_hits, &record);
  return record;
}

Json AdminRecord(const std::string& event, const std::string& detail) {
  return {{"phase", "admin"}, {"event", event}, {"detail", detail}};
}

Json GapRecord(const std::vector<std::string>& open, uint64_t torn_bytes, uint64_t dropped,
               const std::string& why) {
  return {{"phase", "gap"},
          {"open", open},
          {"torn_bytes", torn_bytes},
          {"dropped", dropped},
          {"why", why}};
}

}  // namespace choir
