// `choir audit verify | show | prove | erase`: the audit log from its files, without a router.
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/config/file_watch.h"
#include "common/config/options.h"
#include "router/audit/audit_verify.h"
#include "router/audit/canonical_json.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int kBroken = 1;
constexpr int kUnusable = 2;

int Unusable(const std::string& command, const Status& status) {
  std::fprintf(stderr, "choir audit %s: %s\n", command.c_str(), MessageOf(status).c_str());
  return kUnusable;
}

bool IsLog(const std::string& dir) {
  std::error_code ignored;
  return fs::exists(dir + "/" + kAuditHeadFile, ignored);
}

// A directory that holds a log, or directories that do (several routers).
std::vector<std::string> LogsIn(const std::string& dir) {
  std::vector<std::string> logs;
  std::error_code ignored;
  if (IsLog(dir)) return {dir};
  for (const auto& entry : fs::directory_iterator(dir, ignored)) {
    if (IsLog(entry.path())) logs.push_back(entry.path());
  }
  std::sort(logs.begin(), logs.end());
  return logs.empty() ? std::vector<std::string>{dir} : logs;
}

StatusOr<std::string> PublicKey(const std::string& file) {
  if (file.empty()) return std::string();
  return ReadSmallFile(file);
}

// An intent that goes on with a request of another router, which was lost.
struct Continuation {
  std::string log;
  uint64_t seq = 0;
  std::string tenant, from;  // from: "log:seq"
  bool elsewhere = false;    // that log is not here
  std::string found;         // what is wrong; empty: its log is here and has that intent
};

std::string ReceiptOf(const Json& record) {
  return record["log"].get<std::string>() + ":" + std::to_string(record["seq"].get<uint64_t>());
}

// One log's verdict and what it says of others.
struct LogReport {
  std::string dir;
  AuditVerdict verdict;
  std::vector<Continuation> continuations;
};

StatusOr<LogReport> ReportOn(const std::string& dir, const std::string& pem) {
  LogReport report{.dir = dir, .verdict = {}, .continuations = {}};
  CHOIR_ASSIGN_OR_RETURN(
      report.verdict, VerifyAudit(dir, pem, [&report](const Json& r) {
        if (!r.contains("continues")) return;
        report.continuations.push_back(
            {.log = r["log"], .seq = r["seq"], .tenant = r["tenant"], .from = r["continues"]});
      }));
  return report;
}

void Break(LogReport* report, uint64_t seq, std::string why) {
  if (!report->verdict.intact) return;
  report->verdict.intact = false;
  report->verdict.bad_file = report->dir;
  report->verdict.bad_seq = seq;
  report->verdict.why = std::move(why);
}

// Looks up what the continuations name in the logs that are here. One log alone may go on with one
// that is kept elsewhere; where the logs of `all` routers are, none may be missing.
Status JoinContinuations(const std::string& pem, bool all, std::vector<LogReport>* reports) {
  std::multimap<std::string, Continuation*> wanted;
  std::set<std::string> here;
  for (LogReport& report : *reports) here.insert(report.verdict.log);
  for (LogReport& report : *reports) {
    for (Continuation& c : report.continuations) {
      c.elsewhere = !here.contains(c.from.substr(0, c.from.rfind(':')));
      if (c.elsewhere && all) c.found = "it continues " + c.from + ", and that log is not here";
      if (c.elsewhere) continue;
      c.found = "it continues " + c.from + ", which is no intent of that tenant";
      wanted.emplace(c.from, &c);
    }
  }
  for (const LogReport& report : *reports) {
    if (wanted.empty()) break;
    CHOIR_RETURN_IF_ERROR(VerifyAudit(report.dir, pem, [&wanted](const Json& r) {
                            if (r["phase"] != "intent") return;
                            const auto [from, to] = wanted.equal_range(ReceiptOf(r));
                            for (auto it = from; it != to; ++it) {
                              if (r["tenant"] == it->second->tenant) it->second->found.clear();
                            }
                          }).status());
  }
  for (LogReport& report : *reports) {
    for (const Continuation& c : report.continuations) {
      if (!c.found.empty()) Break(&report, c.seq, c.found);
    }
  }
  return absl::OkStatus();
}

// No log is here twice, and those that are expected are.
void CheckPresence(const std::string& dir, const std::vector<std::string>& expected,
                   std::vector<LogReport>* reports) {
  std::map<std::string, std::string> here;  // its directory
  for (LogReport& report : *reports) {
    const auto [first, fresh] = here.emplace(report.verdict.log, report.dir);
    if (!fresh) Break(&report, 0, "it is the same log as " + first->second);
  }
  for (const std::string& log : expected) {
    if (here.contains(log)) continue;
    LogReport missing{.dir = dir, .verdict = {.intact = true, .log = log}, .continuations = {}};
    Break(&missing, 0, log + " is not here");
    reports->push_back(std::move(missing));
  }
}

Json VerdictJson(const LogReport& report) {
  const auto& [dir, v, continuations] = report;
  Json out = {{"dir", dir},           {"intact", v.intact},         {"log", v.log},
              {"key_fp", v.key_fp},   {"closed", v.closed},         {"segments", v.segments},
              {"records", v.records}, {"signed_seq", v.signed_seq}, {"phases", v.phases},
              {"open", v.open},       {"torn_bytes", v.torn_bytes}};
  Json continued = Json::array();
  for (const Continuation& c : continuations) {
    continued.push_back({{"seq", c.seq}, {"continues", c.from}});
  }
  out["continuations"] = std::move(continued);
  if (!v.intact) out["broken"] = {{"file", v.bad_file}, {"seq", v.bad_seq}, {"why", v.why}};
  return out;
}

void PrintVerdict(const LogReport& report) {
  const auto& [dir, v, continuations] = report;
  if (!v.intact) {
    std::printf("%s: BROKEN at %s", dir.c_str(), v.bad_file.c_str());
    if (v.bad_seq > 0) std::printf(", record %llu", static_cast<unsigned long long>(v.bad_seq));
    std::printf(": %s\n", v.why.c_str());
    return;
  }
  std::printf(
      "%s: intact: %s, %llu records in %llu segments, %s; signed up to record %llu by %.16s\n",
      dir.c_str(), v.log.c_str(), static_cast<unsigned long long>(v.records),
      static_cast<unsigned long long>(v.segments), v.closed ? "closed" : "open",
      static_cast<unsigned long long>(v.signed_seq), v.key_fp.c_str());
  for (const auto& [phase, count] : v.phases) {
    std::printf("  %-10s %llu\n", phase.c_str(), static_cast<unsigned long long>(count));
  }
  for (const Continuation& c : continuations) {
    std::printf("  record %llu goes on with %s%s\n", static_cast<unsigned long long>(c.seq),
                c.from.c_str(), c.elsewhere ? ", which is not here: verify both together" : "");
  }
  if (!v.open.empty()) std::printf("  %zu requests have no outcome yet\n", v.open.size());
  if (v.torn_bytes > 0) {
    std::printf("  the last line is unfinished (%llu bytes): the router's next start repairs it\n",
                static_cast<unsigned long long>(v.torn_bytes));
  }
}

// A part of a batch has its name and a number: NAME.0.
bool IsNamed(const std::string& id, const std::string& name) {
  if (!id.starts_with(name)) return false;
  const std::string part = id.substr(name.size());
  return part.empty() || (part.size() > 1 && part[0] == '.' &&
                          part.find_first_not_of("0123456789", 1) == std::string::npos);
}

struct ShowFilter {
  std::string request, tenant, phase, receipt;
  bool Takes(const Json& r) const {
    const auto is = [&r](const char* key, const std::string& wanted) {
      return wanted.empty() || r.value(key, "") == wanted;
    };
    if (!receipt.empty() && receipt != ReceiptOf(r)) return false;
    const bool named = request.empty() || IsNamed(r.value("request_id", ""), request) ||
                       IsNamed(r.value("client_request_id", ""), request);
    return named && is("tenant", tenant) && is("phase", phase);
  }
};

// Proof that one record is under a signed checkpoint: record, path, checkpoint.
StatusOr<Json> Prove(const std::string& dir, const std::string& receipt, const std::string& pem) {
  std::vector<std::string> hashes;  // of the segment so far
  std::optional<size_t> index;
  Json record, checkpoint;
  const ShowFilter wanted{.receipt = receipt};
  CHOIR_ASSIGN_OR_RETURN(const AuditVerdict verdict, VerifyAudit(dir, pem, [&](const Json& r) {
                           if (!checkpoint.is_null()) return;
                           const bool is_checkpoint = r["phase"] == "checkpoint";
                           if (index && is_checkpoint) {
                             checkpoint = r;
                             return;
                           }
                           if (wanted.Takes(r)) {
                             index = hashes.size();
                             record = r;
                           }
                           hashes.push_back(r["hash"].get<std::string>());
                           if (is_checkpoint && r["seals"].get<bool>()) hashes.clear();
                         }));
  if (!verdict.intact) return FailedPrecondition("{}: the log is broken: {}", dir, verdict.why);
  if (!index) return NotFound("{}: holds no record {}", dir, receipt);
  if (record["phase"] == "checkpoint") {
    return FailedPrecondition("record {} is a checkpoint: its own signature proves it", receipt);
  }
  if (checkpoint.is_null()) {
    return FailedPrecondition("record {} is not under a checkpoint yet: try again in a minute",
                              receipt);
  }
  const std::vector<std::string_view> leaves(hashes.begin(), hashes.end());
  Json path = Json::array();
  for (const Sha256Digest& digest : InclusionPath(leaves, *index)) path.push_back(ToHex(digest));
  return Json{{"record", record},
              {"index", *index},
              {"size", leaves.size()},
              {"path", path},
              {"checkpoint", checkpoint}};
}

}  // namespace

int RunAuditVerify(int argc, const char* const* argv) {
  std::string dir, key_file;
  std::vector<std::string> expected;
  bool json = false;
  OptionSet set(
      "choir audit verify",
      "Verifies an audit log from its files: 0 intact, 1 broken (names the first bad "
      "record and why), 2 nothing to verify. Of several routers' logs in one directory also "
      "that each continuation names an intent of the log that it continues, which must be there.",
      "");
  set.Add(&dir, {.flag = "DIR", .help = "audit directory", .required = true});
  set.Add(&key_file, {.flag = "--public-key",
                      .help = "public key to trust, kept apart from the log [the one beside it]"});
  set.Add(&expected, {.flag = "--log",
                      .help = "id of a log that must be there (log-...), kept apart; repeatable"});
  set.Add(&json, {.flag = "--json", .help = "print JSON"});
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const StatusOr<std::string> pem = PublicKey(key_file);
  if (!pem.ok()) return Unusable("verify", pem.status());
  int code = 0;
  std::vector<LogReport> reports;
  for (const std::string& log : LogsIn(dir)) {
    StatusOr<LogReport> report = ReportOn(log, *pem);
    if (!report.ok()) return Unusable("verify", report.status());
    reports.push_back(*std::move(report));
  }
  const Status joined = JoinContinuations(*pem, /*all=*/!IsLog(dir), &reports);
  if (!joined.ok()) return Unusable("verify", joined);
  CheckPresence(dir, expected, &reports);
  for (const LogReport& report : reports) {
    if (!report.verdict.intact) code = kBroken;
    json ? (void)std::printf("%s\n", VerdictJson(report).dump().c_str()) : PrintVerdict(report);
  }
  return code;
}

int RunAuditShow(int argc, const char* const* argv) {
  std::string dir;
  ShowFilter filter;
  OptionSet set("choir audit show", "Prints records, one JSON object a line; verifies on the way.",
                "");
  set.Add(&dir, {.flag = "DIR", .help = "audit directory", .required = true});
  set.Add(&filter.request,
          {.flag = "--request", .help = "only of this request or batch, by either id"});
  set.Add(&filter.tenant, {.flag = "--tenant", .help = "only of this tenant"});
  set.Add(&filter.phase, {.flag = "--phase", .help = "only of this phase"});
  set.Add(&filter.receipt, {.flag = "--receipt", .help = "only this one: log:seq (x-choir-audit)"});
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  for (const std::string& log : LogsIn(dir)) {
    const StatusOr<AuditVerdict> verdict = VerifyAudit(log, "", [&filter](const Json& record) {
      if (filter.Takes(record)) std::printf("%s\n", CanonicalJson(record).c_str());
    });
    if (!verdict.ok()) return Unusable("show", verdict.status());
    if (verdict->intact) continue;
    std::fflush(stdout);
    std::fprintf(stderr, "choir audit show: the log is broken after these: %s: %s\n",
                 verdict->bad_file.c_str(), verdict->why.c_str());
    return kBroken;
  }
  return 0;
}

int RunAuditProve(int argc, const char* const* argv) {
  std::string dir, receipt;
  OptionSet set(
      "choir audit prove",
      "Prints a proof, for somebody without the log, that a record is in it: the record, its "
      "Merkle path (RFC 6962) and the signed checkpoint.",
      "");
  set.Add(&dir, {.flag = "DIR", .help = "audit directory of one router", .required = true});
  set.Add(&receipt, {.flag = "--receipt", .help = "log:seq, from x-choir-audit", .required = true});
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const StatusOr<Json> proof = Prove(dir, receipt, "");
  if (!proof.ok()) {
    std::fprintf(stderr, "choir audit prove: %s\n", MessageOf(proof.status()).c_str());
    return kBroken;
  }
  std::printf("%s\n", proof->dump(2).c_str());
  return 0;
}

int RunAuditErase(int argc, const char* const* argv) {
  std::string keys, tenant;
  OptionSet set(
      "choir audit erase",
      "Destroys a tenant's audit key: digests and captured content of that tenant can never "
      "be matched or read again; the log stays verifiable.",
      "");
  set.Add(&keys, {.flag = "--keys", .help = "directory of the audit keys", .required = true});
  set.Add(&tenant, {.flag = "--tenant", .help = "whose", .required = true});
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const Status status = TenantKeys(keys).Destroy(tenant);
  if (status.ok()) return 0;
  std::fprintf(stderr, "choir audit erase: %s\n", MessageOf(status).c_str());
  return 1;
}

}  // namespace choir
