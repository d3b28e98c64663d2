#include "tests/sim/sim_checks.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace choir::sim {
namespace {

bool AnyDiskWasFull(const Cluster& cluster, size_t disks) {
  for (size_t i = 0; i < disks; ++i) {
    if (cluster.disk(i).was_full()) return true;
  }
  return false;
}

// Whether its fate explains the error.
bool Explained(const Cluster& cluster, size_t disks, const SimRequest& request,
               const RestError& error) {
  if (error.http == 504) return request.timeout_seconds < 600;
  if (error.http == 429) return cluster.options().limits.has_value();
  if (error.http != 503) return false;
  if (error.code == "audit") return AnyDiskWasFull(cluster, disks);
  // No rank when it came; or no router up to its deadline.
  if (error.code == "not_ready") return cluster.disturbed();
  if (error.code == "queue_full") return cluster.options().tight;
  if (error.code == "deadline") return request.timeout_seconds < 600;
  return false;
}

}  // namespace

void CheckAnswers(Cluster& cluster, const std::vector<SimRequest>& requests,
                  const Answers& expected, Failures* failures) {
  const auto disks = static_cast<size_t>(cluster.num_routers());
  for (const SimRequest& request : requests) {
    const auto it = cluster.gateway().answers().find(request.name);
    if (it == cluster.gateway().answers().end() || !it->second.ended) {
      failures->push_back(request.name + ": has no end");
      continue;
    }
    const SimAnswer& answer = it->second;
    if (!answer.complaint.empty()) failures->push_back(request.name + ": " + answer.complaint);
    if (answer.cancelled) continue;
    const SimAnswer& wanted = expected.at(request.name);
    if (answer.error.http != 0) {
      const bool same = answer.error.http == wanted.error.http &&
                        answer.error.code == wanted.error.code;  // a content rule's
      if (!same && !Explained(cluster, disks, request, answer.error)) {
        failures->push_back(fmt::format("{}: {} {} {}", request.name, answer.error.http,
                                        answer.error.code, answer.error.message));
      }
      continue;
    }
    if (answer.body != wanted.body) {
      failures->push_back(fmt::format("{}: other bytes\n  got    {}\n  wanted {}", request.name,
                                      answer.body, wanted.body));
    }
  }
}

void CheckAudit(Cluster& cluster, const std::vector<SimRequest>& requests, Failures* failures) {
  const auto complain = [&](const SimRequest& request, const std::string& what) {
    failures->push_back(request.name + ": audit: " + what);
  };
  std::map<std::string, std::vector<DiskRecord>> all;
  for (size_t i = 0; i < static_cast<size_t>(cluster.num_routers()); ++i) {
    const SimDisk& disk = cluster.disk(i);
    failures->insert(failures->end(), disk.complaints().begin(), disk.complaints().end());
    for (const auto& [id, record] : disk.records()) {
      all[record.name].push_back(record);
      const bool over = record.life != disk.life();  // open intents are in its gap record
      if (record.intent && record.outcomes == 0 && !over && !disk.was_full()) {
        failures->push_back(id + ": audit: an intent has no outcome");
      }
    }
  }
  for (const SimRequest& request : requests) {
    const auto it = cluster.gateway().answers().find(request.name);
    if (it == cluster.gateway().answers().end() || it->second.cancelled) continue;
    const SimAnswer& answer = it->second;
    const std::vector<DiskRecord>& records = all[answer.asked_as];
    const int status = answer.error.http == 0 ? 200 : answer.error.http;
    bool told = false;
    for (const DiskRecord& record : records) {
      if (record.status != status) continue;
      told |= status != 200 || (record.usage.output_tokens == answer.usage.output_tokens &&
                                record.usage.prompt_tokens == answer.usage.prompt_tokens);
    }
    // A full disk takes no records. Without a router nobody writes one, and what ends at the
    // gateway meanwhile, at its deadline, is in the gap record of the dead one's log.
    const bool excused =
        answer.error.code == "audit" || (status == 504 && records.empty()) ||
        (status != 200 && AnyDiskWasFull(cluster, static_cast<size_t>(cluster.num_routers()))) ||
        (answer.error.code == "not_ready" && (records.empty() || request.timeout_seconds < 600));
    if (!told && !excused) {
      complain(request, fmt::format("none of its {} records says {}", records.size(), status));
    }
  }
}

void CheckBounds(Cluster& cluster, Failures* failures) {
  for (size_t i = 0; i < static_cast<size_t>(cluster.num_routers()); ++i) {
    if (!cluster.router(i).alive() || failures->size() > 10) continue;
    const AdmissionStatus status = cluster.router(i).admission();
    for (const AdmissionClass c : kAdmissionClasses) {
      const AdmissionStatus::Class& of = status.classes[static_cast<size_t>(c)];
      const uint64_t on_record = cluster.runs().sequences(i, c);
      if (of.waiting <= of.queue && of.running_sequences == on_record) continue;
      failures->push_back(fmt::format(
          "router {}: {}: {} wait of {}, {} sequences run, {} on record", i, AdmissionClassName(c),
          of.waiting, of.queue, of.running_sequences, on_record));
    }
    if (status.Difference() == 0 && status.WorkDifference() == 0) continue;
    failures->push_back(fmt::format("router {}: permits differ by {}, their tokens by {}", i,
                                    status.Difference(), status.WorkDifference()));
  }
}

// What another router had let run goes on here at once, whatever the ceiling says; but it counts.
// So a class has more than its ceiling by no more than what was taken up, for as long as that runs:
// nothing else of the class begins meanwhile, unless there is room below the ceiling, or nothing.
void CheckCeilings(const Cluster& cluster, Failures* failures) {
  if (!cluster.options().tight) return;  // else they are shares of ranks that come and go
  for (const SimRun& run : cluster.runs().all()) {
    if (!run.seated || run.resumed) continue;
    uint64_t there = 0;
    for (const SimRun& other : cluster.runs().all()) {
      const bool beside = other.seated && other.router == run.router &&
                          other.admission_class == run.admission_class && other.OpenAt(run.began);
      if (beside) there += other.sequences;
    }
    const uint64_t ceiling = cluster.options().admission.of(run.admission_class).ceiling.Of(0);
    if (there <= ceiling || there == run.sequences) continue;
    failures->push_back(fmt::format("router {}: {}: {} more began where {} of {} ran", run.router,
                                    AdmissionClassName(run.admission_class), run.sequences,
                                    there - run.sequences, ceiling));
  }
}

void CheckLedgers(Cluster& cluster, Failures* failures) {
  for (size_t i = 0; i < static_cast<size_t>(cluster.num_ranks()); ++i) {
    const std::string left = cluster.rank(i).Leftovers();
    if (!left.empty()) failures->push_back(fmt::format("rank {}: {}", i, left));
  }
  for (size_t i = 0; i < static_cast<size_t>(cluster.num_routers()); ++i) {
    const auto page = nlohmann::json::parse(cluster.router(i).core().StatusJson());
    for (const auto& [name, ledger] : page.at("ledgers").items()) {
      if (ledger.at("difference") != 0) {
        failures->push_back(fmt::format("router {}: ledger {}: {}", i, name, ledger.dump()));
      }
    }
    const AdmissionStatus admission = cluster.router(i).admission();
    if (admission.there != 0 || admission.outstanding_tokens != 0) {
      failures->push_back(fmt::format("router {}: {} permits and {} tokens are left", i,
                                      admission.there, admission.outstanding_tokens));
    }
    if (!cluster.router(i).core().idle() || page.at("sequences").at("live") != 0) {
      failures->push_back(fmt::format("router {}: not idle: {} {}", i, page.at("requests").dump(),
                                      page.at("sequences").dump()));
    }
  }
}

}  // namespace choir::sim
