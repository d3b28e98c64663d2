// What people and probes see of the core: /statusz, /readyz, the ledgers and the model list.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>

#include "common/base/version.h"
#include "router/core/router_core.h"

namespace choir {
namespace {

// People look for a rank by its number, not by when its address became known.
std::vector<WorkerView> ByRank(std::vector<WorkerView> workers) {
  std::sort(workers.begin(), workers.end(), [](const WorkerView& a, const WorkerView& b) {
    return std::tie(a.identity->group, a.identity->rank, a.address) <
           std::tie(b.identity->group, b.identity->rank, b.address);
  });
  return workers;
}

uint64_t NumDegraded(const Policy& policy, const RankTable& ranks) {
  uint64_t degraded = 0;
  for (size_t i = 0; i < ranks.size(); ++i) degraded += !policy.IsExact(ranks.at(i));
  return degraded;
}

nlohmann::ordered_json PolicyJson(const Policy& policy, const RankTable& ranks) {
  nlohmann::ordered_json page = {{"name", policy.name()}};
  const auto stats = policy.prefix_stats();
  if (!stats) return page;
  page["prefixes_known"] = NumDegraded(policy, ranks) == 0 ? "exact" : "degraded";
  page["index"] = {{"blocks", stats->index_blocks},
                   {"blocks_max", stats->index_blocks_max},
                   {"forgotten", stats->forgotten_blocks}};
  page["predictions"] = {{"made", stats->predictions},
                         {"agreed", stats->agreed},
                         {"predicted_tokens", stats->predicted_tokens},
                         {"cached_tokens", stats->cached_tokens},
                         {"missing_tokens", stats->missing_tokens},
                         {"unforeseen_tokens", stats->unforeseen_tokens}};
  return page;
}

nlohmann::ordered_json ResultCachePage(const ResultCache* cache) {
  if (cache == nullptr) return {{"store", "off"}};
  const ResultCache::State state = cache->state();
  return {{"store", state.store},
          {"problem", state.problem},
          {"answers", state.answers},
          {"bytes", state.bytes}};
}

nlohmann::ordered_json AdmissionPage(const AdmissionStatus& status) {
  using nlohmann::ordered_json;
  ordered_json classes = ordered_json::object();
  for (const AdmissionClass c : kAdmissionClasses) {
    const AdmissionStatus::Class& of = status.classes[static_cast<size_t>(c)];
    ordered_json page = {{"waiting", of.waiting},
                         {"queue", of.queue},
                         {"waiting_tenants", of.waiting_tenants},
                         {"waiting_tokens", of.waiting_tokens},
                         {"running", of.running},
                         {"running_sequences", of.running_sequences},
                         {"floor", of.floor},
                         {"ceiling", nullptr},
                         {"started", of.started},
                         {"aged", of.aged},
                         {"wait_seconds", nullptr}};
    if (of.ceiling) page["ceiling"] = *of.ceiling;
    if (of.wait_seconds) page["wait_seconds"] = std::round(*of.wait_seconds * 1e3) / 1e3;
    classes[AdmissionClassName(c)] = std::move(page);
  }
  ordered_json out = {
      {"held", status.held}, {"held_max", status.held_max}, {"ranks", status.capacity.ranks},
      {"seats", nullptr},    {"free_seats", nullptr},       {"classes", std::move(classes)}};
  if (!status.capacity.bounded) return out;
  out["seats"] = status.capacity.seats;
  out["free_seats"] = status.capacity.free;
  return out;
}

constexpr size_t kUsesMax = 200;

nlohmann::ordered_json LimitsPage(Limits& limits, const LimitStatus& status,
                                  const std::string& tenant) {
  using nlohmann::ordered_json;
  ordered_json uses = ordered_json::object();
  for (const LimitUse& use : limits.Uses(tenant, kUsesMax)) {
    uses[use.scope][use.rule] = fmt::format("{:.10g} of {:.10g}", use.used, use.limit);
  }
  return {{"store", status.store},       {"degraded", status.degraded}, {"reason", status.reason},
          {"replicas", status.replicas}, {"scopes", status.scopes},     {"used", std::move(uses)}};
}

nlohmann::ordered_json LimitLedger(const LimitStatus& limits) {
  return {{"reserved", limits.reserved_tokens},
          {"settled", limits.settled_tokens},
          {"outstanding", limits.outstanding_tokens},
          {"difference", limits.Difference()}};
}

nlohmann::ordered_json WorkerJson(const WorkerView& w) {
  const WorkerIdentity& id = *w.identity;
  return {{"worker", id.worker_id},
          {"address", w.address},
          {"state", WorkerPhaseName(w.phase)},
          {"reason", w.reason},
          {"breaker", BreakerStateName(w.breaker)},
          {"group", id.group},
          {"rank", id.rank},
          {"group_size", id.group_size},
          {"epoch", w.epoch},
          {"incarnation", id.incarnation},
          {"build", id.build},
          {"model", id.model_id},
          {"numerics_id", id.numerics_id},
          {"context_length", id.context_length},
          {"load", LoadOf(w)},
          {"running", w.reported.running},
          {"waiting", w.reported.waiting},
          {"waiting_tokens", w.reported.waiting_tokens},
          {"kv_tokens_used", w.reported.kv_tokens_used},
          {"kv_tokens_max", id.kv_tokens_max},
          {"sequences_of_this_router", w.assigned_sequences}};
}

}  // namespace

Status RouterCore::Ready() const {
  if (announced_) return Unavailable("draining");
  CHOIR_RETURN_IF_ERROR(parts_.audit->Writable());
  if (membership_.num_ready() > 0) return absl::OkStatus();
  std::string reasons;
  for (const WorkerView& worker : membership_.snapshot().workers) {
    reasons +=
        fmt::format("{}{} is {}: {}", reasons.empty() ? "" : "; ", worker.identity->worker_id,
                    WorkerPhaseName(worker.phase), worker.reason);
  }
  return Unavailable("no rank is ready{}{}", reasons.empty() ? "; no worker is configured" : ": ",
                     reasons);
}

std::string RouterCore::StatusJson(const std::string& tenant) const {
  using nlohmann::ordered_json;
  ordered_json workers = ordered_json::array();
  for (const WorkerView& w : ByRank(membership_.snapshot().workers)) {
    workers.push_back(WorkerJson(w));
    if (policy_->wants_prefix()) {
      workers.back()["prefixes_known"] = policy_->IsExact(w) ? "exact" : "degraded";
    }
  }
  uint64_t queued = 0;
  for (const auto& [id, request] : requests_) queued += !request->dispatched;
  const auto cancelling = std::count_if(sequences_.begin(), sequences_.end(),
                                        [](const auto& entry) { return entry.second.cancelling; });
  const AdmissionStatus admission = parts_.admission->status(parts_.clock->Now());
  const Status ready = Ready();
  const LimitStatus limits = parts_.limits->status();
  const ordered_json page = {
      {"part", "router"},
      {"version", std::string(kVersion)},
      {"router", settings_.router_id},
      {"model", settings_.model_name},
      {"ready", ready.ok()},
      {"reason", MessageOf(ready)},
      {"draining", announced_},
      {"config", {{"next_start", next_start_}}},
      {"workers", std::move(workers)},
      {"policy", PolicyJson(*policy_, membership_.ranks())},
      {"requests",
       {{"running", ledger_.running - queued},
        {"queued", queued},
        {"waiting_for_a_rank", waiting_.size()},
        {"detached", detached_.size()},
        {"ends_kept", parked_.size()}}},
      {"sequences", {{"live", sequences_.size()}, {"cancelling", cancelling}}},
      {"result_cache", ResultCachePage(parts_.results)},
      {"limits", LimitsPage(*parts_.limits, limits, tenant)},
      {"admission", AdmissionPage(admission)},
      {"ledgers",
       {{"requests",
         {{"admitted", ledger_.admitted},
          {"running", ledger_.running},
          {"finished", ledger_.finished},
          {"refused", ledger_.refused},
          {"aborted", ledger_.aborted},
          {"difference", ledger_.Difference()}}},
        {"sequences",
         {{"submitted", sequence_ledger_.submitted},
          {"live", sequences_.size()},
          {"ended", sequence_ledger_.ended},
          {"cancelled", sequence_ledger_.cancelled},
          {"lost", sequence_ledger_.lost},
          {"difference", sequence_ledger_.Difference(sequences_.size())}}},
        {"limit_tokens", LimitLedger(limits)},
        {"permits",
         {{"entered", admission.entered},
          {"there", admission.there},
          {"ended", admission.ended},
          {"difference", admission.Difference()}}},
        {"admission_tokens",
         {{"charged", admission.charged_tokens},
          {"settled", admission.settled_tokens},
          {"outstanding", admission.outstanding_tokens},
          {"difference", admission.WorkDifference()}}}}}};
  return page.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

void RouterCore::PublishMetrics() {
  const AdmissionStatus admission = parts_.admission->status(parts_.clock->Now());
  parts_.metrics->admission.Publish(admission);
  parts_.metrics->SetLedger("permits", admission.Difference());
  parts_.metrics->SetLedger("admission_tokens", admission.WorkDifference());
  parts_.metrics->inflight.Set(static_cast<double>(ledger_.running));
  if (parts_.results != nullptr) {
    parts_.metrics->result_cache_bytes.Set(static_cast<double>(parts_.results->state().bytes));
  }
  parts_.metrics->draining.Set(announced_ ? 1 : 0);
  // The running side is what is really there, not a second count of the same events.
  RequestLedger counted = ledger_;
  counted.running = requests_.size();
  parts_.metrics->SetLedger("requests", counted.Difference());
  parts_.metrics->SetLedger("sequences", sequence_ledger_.Difference(sequences_.size()));
  const LimitStatus limits = parts_.limits->status();
  parts_.metrics->SetLedger("limit_tokens", limits.Difference());
  parts_.metrics->limit_degraded.Set(limits.degraded ? 1 : 0);
  parts_.metrics->SetWorkers(membership_.snapshot());
  if (const auto prefix = policy_->prefix_stats()) {
    parts_.metrics->SetPrefix(*prefix, published_prefix_,
                              NumDegraded(*policy_, membership_.ranks()));
    published_prefix_ = *prefix;
  }
}

RouterCore::ModelInfo RouterCore::model_info() const {
  ModelInfo info;
  info.id = settings_.model_name;
  info.created = settings_.model_created;
  info.context_length = parts_.model->context_length();
  if (const uint32_t workers = membership_.context_length(); workers != 0) {
    info.context_length =
        info.context_length == 0 ? workers : std::min(info.context_length, workers);
  }
  if (const auto model = membership_.model()) info.numerics_id = model->numerics_id;
  return info;
}

}  // namespace choir
