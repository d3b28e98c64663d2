#include "router/audit/audit_chain.h"

#include <fmt/format.h>

#include <ctime>

#include "router/audit/canonical_json.h"

namespace choir {

using Json = nlohmann::json;

std::string FirstPrev() { return std::string(64, '0'); }

std::string FormatAuditTime(WallTime time) {
  const int64_t ns = time.time_since_epoch().count();
  const std::time_t seconds = ns / 1'000'000'000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", utc.tm_year + 1900,
                     utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                     ns % 1'000'000'000);
}

std::string AuditChain::Link(Json& record, WallTime now, const AuditSigner* signer) {
  record["v"] = kAuditVersion;
  record["log"] = position_.log;
  record["seq"] = position_.seq + 1;
  record["time"] = FormatAuditTime(now);
  record["prev"] = position_.hash;
  if (signer != nullptr) record["signature"] = signer->Sign(CanonicalJson(record));
  // The text with the hash is the one without it and one member more, never the last.
  size_t place = 0;
  std::string line = CanonicalJson(record, "hash", &place);
  const std::string hash = ToHex(Sha256Of(line));
  line.insert(place, "\"hash\":\"" + hash + "\",");
  line += '\n';
  Follow(record, hash);
  return line;
}

// Takes in a record that has its place.
void AuditChain::Follow(const Json& record, const std::string& hash) {
  position_.seq = record["seq"].get<uint64_t>();
  position_.hash = hash;
  if (segment_first_ == 0) segment_first_ = position_.seq;
  tree_.Add(position_.hash);
  const std::string phase = record["phase"].get<std::string>();
  const auto remove = [this](const std::string& id) {
    if (open_.erase(id) > 0) before_.changes.emplace_back(id, false);
  };
  if (phase == "intent") {
    const std::string id = record["request_id"].get<std::string>();
    if (open_.insert(id).second) before_.changes.emplace_back(id, true);
  } else if (phase == "outcome") {
    remove(record["request_id"].get<std::string>());
  } else if (phase == "gap") {
    for (const Json& id : record.value("open", Json::array())) remove(id.get<std::string>());
  } else if (phase == "checkpoint" && record["seals"].get<bool>()) {
    tree_ = {};
    segment_first_ = 0;
  }
}

std::string AuditChain::Append(Json& record, WallTime now) { return Link(record, now, nullptr); }

std::string AuditChain::Checkpoint(const AuditSigner& signer, bool seals, WallTime now) {
  Json record = {{"phase", "checkpoint"},
                 {"seals", seals},
                 {"first", segment_first_ == 0 ? position_.seq + 1 : segment_first_},
                 {"count", tree_.size()},
                 {"root", ToHex(tree_.Root())},
                 {"key_fp", signer.fingerprint()}};
  if (seals) record["open"] = open_;
  return Link(record, now, &signer);
}

void AuditChain::Commit() { before_ = {position_, segment_first_, tree_, {}}; }

void AuditChain::RollBack() {
  for (auto it = before_.changes.rbegin(); it != before_.changes.rend(); ++it) {
    it->second ? (void)open_.erase(it->first) : (void)open_.insert(it->first);
  }
  position_ = before_.position;
  segment_first_ = before_.segment_first;
  tree_ = before_.tree;
  before_.changes.clear();
}

void AuditChain::Replay(const Json& record) {
  if (position_.log.empty()) position_.log = record["log"].get<std::string>();
  Follow(record, record["hash"].get<std::string>());
  if (record["phase"] == "checkpoint" && record["seals"].get<bool>()) {
    for (const Json& id : record.value("open", Json::array())) open_.insert(id.get<std::string>());
  }
  Commit();
}

}  // namespace choir
