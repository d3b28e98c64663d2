// What people and probes see of the core: /statusz, /readyz, the ledgers and the model list.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/base/version.h"
#include "router/core/router_core.h"
#include "router/policy/policy.h"

namespace choir {

Status RouterCore::Ready() const {
  if (draining_) return Unavailable("draining");
  const auto snapshot = membership_.snapshot();
  if (snapshot->NumReady() > 0) return absl::OkStatus();
  std::string reasons;
  for (const WorkerView& worker : snapshot->workers) {
    reasons +=
        fmt::format("{}{} is {}: {}", reasons.empty() ? "" : "; ", worker.identity->worker_id,
                    WorkerPhaseName(worker.phase), worker.reason);
  }
  return Unavailable("no rank is ready{}{}", reasons.empty() ? "; no worker is configured" : ": ",
                     reasons);
}

std::string RouterCore::StatusJson() const {
  using nlohmann::ordered_json;
  ordered_json workers = ordered_json::array();
  for (const WorkerView& w : membership_.snapshot()->workers) {
    const WorkerIdentity& id = *w.identity;
    workers.push_back({{"worker", id.worker_id},
                       {"address", w.address},
                       {"state", WorkerPhaseName(w.phase)},
                       {"reason", w.reason},
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
                       {"sequences_of_this_router", w.assigned_sequences}});
  }
  uint64_t queued = 0;
  for (const auto& [id, request] : requests_) queued += !request->dispatched;
  const auto cancelling = std::count_if(sequences_.begin(), sequences_.end(),
                                        [](const auto& entry) { return entry.second.cancelling; });
  const Status ready = Ready();
  const ordered_json page = {
      {"part", "router"},
      {"version", std::string(kVersion)},
      {"router", settings_.router_id},
      {"model", settings_.model_name},
      {"ready", ready.ok()},
      {"reason", MessageOf(ready)},
      {"draining", draining_},
      {"workers", std::move(workers)},
      {"requests",
       {{"running", ledger_.running - queued},
        {"queued", queued},
        {"waiting_for_a_rank", waiting_.size()}}},
      {"sequences", {{"live", sequences_.size()}, {"cancelling", cancelling}}},
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
          {"difference", sequence_ledger_.Difference(sequences_.size())}}}}}};
  return page.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

void RouterCore::PublishMetrics() {
  uint64_t queued = 0;
  for (const auto& [id, request] : requests_) queued += !request->dispatched;
  parts_.metrics->inflight.Set(static_cast<double>(ledger_.running));
  parts_.metrics->queue_depth.Set(static_cast<double>(queued));
  parts_.metrics->draining.Set(draining_ ? 1 : 0);
  // The running side is what is really there, not a second count of the same events.
  RequestLedger counted = ledger_;
  counted.running = requests_.size();
  parts_.metrics->SetLedger("requests", counted.Difference());
  parts_.metrics->SetLedger("sequences", sequence_ledger_.Difference(sequences_.size()));
  parts_.metrics->SetWorkers(*membership_.snapshot());
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
