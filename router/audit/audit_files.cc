#include "router/audit/audit_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "common/base/log.h"
#include "common/base/request_id.h"
#include "common/config/file_watch.h"
#include "router/audit/canonical_json.h"

namespace choir {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

// Ends request_id and client_request_id; within a text the quotes would be escaped.
constexpr std::string_view kField = "request_id\":\"";
constexpr std::string_view kNobody = "\"tenant\":\"\"";
constexpr size_t kLineBytesMax = size_t{256} << 20;

bool IsHex(const std::string& text, size_t size) {
  return text.size() == size && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

const std::set<std::string>& Phases() {
  static const std::set<std::string> phases = {"intent", "outcome", "refused",
                                               "admin",  "gap",     "checkpoint"};
  return phases;
}

bool Has(const Json& record, const char* key, Json::value_t type) {
  const auto at = record.find(key);
  return at != record.end() && at->type() == type;
}

void AddClientNames(std::string_view line, std::vector<std::string>* names) {
  const bool nobody = line.find(kNobody) != line.npos;
  for (size_t at = line.find(kField); at != line.npos; at = line.find(kField, at)) {
    const bool beside = at > 0 && line[at - 1] == '_';  // client_request_id
    at += kField.size();
    std::string name(line.substr(at, line.find('"', at) - at));
    if (!IsMadeRequestId(name) && !(beside && nobody)) names->push_back(std::move(name));
  }
}

}  // namespace

std::string AuditSegmentName(uint64_t first_seq) {
  return fmt::format("segment-{:012}.jsonl", first_seq);
}

StatusOr<std::vector<std::string>> ListAuditSegments(const std::string& dir) {
  std::error_code error;
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("segment-") && name.ends_with(".jsonl")) paths.push_back(entry.path());
  }
  if (error) return NotFound("{}: cannot be read: {}", dir, error.message());
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string FormatAuditHead(const AuditPosition& position, bool closed, const AuditSigner& signer) {
  Json head = {{"v", kAuditVersion},
               {"log", position.log},
               {"seq", position.seq},
               {"hash", position.hash},
               {"state", closed ? "closed" : "open"},
               {"key_fp", signer.fingerprint()}};
  head["signature"] = signer.Sign(CanonicalJson(head));
  return CanonicalJson(head) + "\n";
}

StatusOr<std::optional<AuditHead>> ReadAuditHead(const std::string& dir) {
  const std::string path = dir + "/" + kAuditHeadFile;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::optional<AuditHead>();
  CHOIR_ASSIGN_OR_RETURN(std::string text, ReadSmallFile(path));
  while (text.ends_with('\n')) text.pop_back();
  const StatusOr<Json> json = ParseCanonical(text);
  if (!json.ok()) return Annotate(json.status(), path);
  Json head = *json;
  if (!Has(head, "log", Json::value_t::string) || !Has(head, "hash", Json::value_t::string) ||
      !Has(head, "seq", Json::value_t::number_unsigned) ||
      !Has(head, "state", Json::value_t::string) ||
      !Has(head, "signature", Json::value_t::string)) {
    return InvalidArgument("{}: a field is missing or of the wrong type", path);
  }
  AuditHead out;
  out.position = {head["log"].get<std::string>(), head["seq"].get<uint64_t>(),
                  head["hash"].get<std::string>()};
  out.closed = head["state"] == "closed";
  out.signature = head["signature"].get<std::string>();
  head.erase("signature");
  out.text = CanonicalJson(head);
  return std::optional<AuditHead>(std::move(out));
}

StatusOr<Json> AuditChecker::Next(std::string_view line) {
  CHOIR_ASSIGN_OR_RETURN(Json record, ParseCanonical(line));
  CHOIR_RETURN_IF_ERROR(Check(record));
  const std::string hash = record["hash"].get<std::string>();
  if (ToHex(Sha256Of(CanonicalWithout(record, {"hash"}))) != hash) {
    return InvalidArgument("`hash` is not the hash of the record: it was changed");
  }
  position_ = {record["log"].get<std::string>(), record["seq"].get<uint64_t>(), hash};
  return record;
}

Status AuditChecker::Check(const Json& record) const {
  for (const char* key : {"log", "phase", "time", "prev", "hash"}) {
    if (!Has(record, key, Json::value_t::string)) {
      return InvalidArgument("`{}` is missing or no string", key);
    }
  }
  if (record.value("v", Json()) != kAuditVersion)
    return InvalidArgument("`v` is not {}", kAuditVersion);
  if (!Has(record, "seq", Json::value_t::number_unsigned)) {
    return InvalidArgument("`seq` is missing or no number");
  }
  const std::string phase = record["phase"].get<std::string>();
  if (!Phases().contains(phase)) return InvalidArgument("`phase` {} is not known", phase);
  if (!IsHex(record["hash"].get<std::string>(), 64)) return InvalidArgument("`hash` is no SHA-256");
  const auto seq = record["seq"].get<uint64_t>();
  if (seq != position_.seq + 1) {
    return InvalidArgument(
        "`seq` is {} where {} has to follow: records are missing, doubled or out of order", seq,
        position_.seq + 1);
  }
  if (record["prev"] != position_.hash) {
    return InvalidArgument("`prev` is not the hash of the record before it");
  }
  if (!position_.log.empty() && record["log"] != position_.log) {
    return InvalidArgument("`log` is another one than before: {}", position_.log);
  }
  if ((phase == "intent" || phase == "outcome" || phase == "refused") &&
      !Has(record, "request_id", Json::value_t::string)) {
    return InvalidArgument("`request_id` is missing or no string");
  }
  if (phase == "checkpoint" && (!Has(record, "seals", Json::value_t::boolean) ||
                                !Has(record, "root", Json::value_t::string) ||
                                !Has(record, "count", Json::value_t::number_unsigned) ||
                                !Has(record, "first", Json::value_t::number_unsigned) ||
                                !Has(record, "key_fp", Json::value_t::string) ||
                                !Has(record, "signature", Json::value_t::string))) {
    return InvalidArgument("a field of the checkpoint is missing or of the wrong type");
  }
  for (const Json& id : record.value("open", Json::array())) {
    if (!id.is_string()) return InvalidArgument("`open` holds something else than request ids");
  }
  return absl::OkStatus();
}

StatusOr<AuditTail> ReadAuditLines(const std::string& path,
                                   const std::function<Status(std::string_view line)>& line) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("{}: cannot be read", path);
  AuditTail tail;
  std::string text;
  while (std::getline(file, text)) {
    if (text.size() > kLineBytesMax) return InvalidArgument("{}: a line is too long", path);
    if (file.eof()) {  // no line end
      tail.torn_bytes = text.size();
      break;
    }
    CHOIR_RETURN_IF_ERROR(line(text));
    tail.whole_bytes += text.size() + 1;
  }
  return tail;
}

std::vector<std::string> ReadClientNames(const std::vector<std::string>& segments,
                                         uint64_t bytes_max) {
  std::error_code error;
  uint64_t bytes = 0;
  size_t first = segments.size();
  while (first > 0 && bytes < bytes_max) {
    const uint64_t size = fs::file_size(segments[--first], error);
    if (!error) bytes += size;
  }
  std::vector<std::string> names;
  for (; first < segments.size(); ++first) {
    const auto tail = ReadAuditLines(segments[first], [&names](std::string_view line) {
      AddClientNames(line, &names);
      return absl::OkStatus();
    });
    if (tail.ok()) continue;
    CHOIR_LOG(warn, "audit: {}: names that clients gave there are not known any more",
              MessageOf(tail.status()));
  }
  return names;
}

}  // namespace choir
