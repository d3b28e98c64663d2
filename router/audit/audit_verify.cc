#include "router/audit/audit_verify.h"

#include <filesystem>
#include <optional>

#include "common/config/file_watch.h"
#include "router/audit/canonical_json.h"
#include "router/audit/merkle.h"

namespace choir {
namespace {

using Json = nlohmann::json;

class Verification {
 public:
  Verification(std::string dir, AuditVerifier verifier, std::optional<AuditHead> head,
               const std::function<void(const Json&)>& each)
      : dir_(std::move(dir)), verifier_(std::move(verifier)), head_(std::move(head)), each_(each) {
    verdict_.key_fp = verifier_.fingerprint();
  }

  AuditVerdict Run(const std::vector<std::string>& segments) {
    const Status status = Check(segments);
    verdict_.records = checker_.position().seq;
    verdict_.log = checker_.position().log;
    if (!status.ok()) {
      verdict_.intact = false;
      verdict_.why = MessageOf(status);
    }
    return std::move(verdict_);
  }

 private:
  Status Check(const std::vector<std::string>& segments) {
    At(dir_ + "/" + kAuditHeadFile, 0);
    if (!head_) return InvalidArgument("it is missing: the log's end cannot be told");
    if (!verifier_.Verify(head_->text, head_->signature)) {
      return InvalidArgument("its signature does not belong to it and this public key");
    }
    verdict_.closed = head_->closed;
    for (size_t i = 0; i < segments.size(); ++i) {
      CHOIR_RETURN_IF_ERROR(CheckSegment(segments[i], i + 1 == segments.size()));
    }
    return CheckHead();
  }

  Status CheckSegment(const std::string& path, bool last) {
    ++verdict_.segments;
    const uint64_t first = checker_.position().seq + 1;
    At(path, first);
    if (std::filesystem::path(path).filename() != AuditSegmentName(first)) {
      return InvalidArgument("the segment that begins with this record is missing: {} was expected",
                             AuditSegmentName(first));
    }
    tree_ = {};
    segment_first_ = first;
    sealed_ = false;
    const auto tail = ReadAuditLines(path, [&](std::string_view line) -> Status {
      At(path, checker_.position().seq + 1);
      if (sealed_) return InvalidArgument("it follows the checkpoint that sealed the segment");
      CHOIR_ASSIGN_OR_RETURN(const Json record, checker_.Next(line));
      return CheckRecord(record);
    });
    CHOIR_RETURN_IF_ERROR(tail.status());
    At(path, checker_.position().seq + 1);
    if (tail->torn_bytes > 0 && (!last || sealed_ || verdict_.closed)) {
      return InvalidArgument("the last line has no end");
    }
    verdict_.torn_bytes = tail->torn_bytes;
    if (!last && !sealed_) return InvalidArgument("the segment does not end with its checkpoint");
    return absl::OkStatus();
  }

  Status CheckRecord(const Json& record) {
    const std::string phase = record["phase"].get<std::string>();
    ++verdict_.phases[phase];
    if (phase == "checkpoint") CHOIR_RETURN_IF_ERROR(CheckCheckpoint(record));
    if (phase == "intent") {
      const std::string id = record["request_id"].get<std::string>();
      if (!verdict_.open.insert(id).second) {
        return InvalidArgument("there is an intent for request {} already", id);
      }
    } else if (phase == "outcome") {
      const std::string id = record["request_id"].get<std::string>();
      if (verdict_.open.erase(id) == 0) {
        return InvalidArgument("there is no open intent for request {}", id);
      }
    } else if (phase == "gap") {
      for (const Json& id : record.value("open", Json::array())) {
        verdict_.open.erase(id.get<std::string>());
      }
    }
    tree_.Add(record["hash"].get<std::string>());
    if (head_ && record["seq"].get<uint64_t>() == head_->position.seq) {
      head_reached_ = record["hash"] == head_->position.hash;
    }
    if (each_) each_(record);
    return absl::OkStatus();
  }

  Status CheckCheckpoint(const Json& record) {
    if (record["key_fp"] != verifier_.fingerprint()) {
      return InvalidArgument("the checkpoint names another key than this public key");
    }
    if (!verifier_.Verify(CanonicalWithout(record, {"hash", "signature"}),
                          record["signature"].get<std::string>())) {
      return InvalidArgument("the checkpoint's signature does not belong to it");
    }
    if (record["first"] != segment_first_ || record["count"] != tree_.size() ||
        record["root"] != ToHex(tree_.Root())) {
      return InvalidArgument("the checkpoint is not of the records before it");
    }
    verdict_.signed_seq = record["seq"].get<uint64_t>();
    sealed_ = record["seals"].get<bool>();
    return absl::OkStatus();
  }

  Status CheckHead() {
    const AuditPosition& end = checker_.position();
    At(dir_ + "/" + kAuditHeadFile, 0);
    if (end.seq == 0 && head_->position.seq == 0) return absl::OkStatus();
    if (end.seq == 0) {
      At(dir_ + "/" + AuditSegmentName(1), 1);
      return InvalidArgument("the segment is {}: the log had {} records",
                             verdict_.segments == 0 ? "missing" : "without a whole record",
                             head_->position.seq);
    }
    if (head_->position.log != end.log) return InvalidArgument("it is of another log");
    if (end.seq < head_->position.seq) {
      return InvalidArgument("the log had {} records, {} are left: its tail was cut off",
                             head_->position.seq, end.seq);
    }
    if (head_->position.seq > 0 && !head_reached_) {
      return InvalidArgument("record {} is not the one that it names", head_->position.seq);
    }
    if (head_->closed && end.seq != head_->position.seq) {
      return InvalidArgument("the log was closed after record {}, {} follow", head_->position.seq,
                             end.seq - head_->position.seq);
    }
    if (head_->closed) verdict_.signed_seq = end.seq;
    return absl::OkStatus();
  }

  void At(const std::string& file, uint64_t seq) {
    verdict_.bad_file = file;
    verdict_.bad_seq = seq;
  }

  const std::string dir_;
  const AuditVerifier verifier_;
  const std::optional<AuditHead> head_;
  const std::function<void(const Json&)>& each_;
  AuditVerdict verdict_;
  AuditChecker checker_;
  MerkleBuilder tree_;
  uint64_t segment_first_ = 1;
  bool sealed_ = false;
  bool head_reached_ = false;
};

}  // namespace

StatusOr<AuditVerdict> VerifyAudit(const std::string& dir, const std::string& public_pem,
                                   const std::function<void(const Json&)>& each) {
  const std::string own_key = dir + "/" + kAuditPublicKeyFile;
  std::string pem = public_pem;
  // The head first: what is written meanwhile only makes the log longer than it says.
  const auto head = ReadAuditHead(dir);
  CHOIR_ASSIGN_OR_RETURN(const auto segments, ListAuditSegments(dir));
  if (segments.empty() && (!head.ok() || !*head)) return NotFound("{}: holds no audit log", dir);
  if (pem.empty()) {
    CHOIR_ASSIGN_OR_RETURN(pem, ReadSmallFile(own_key));
  }
  CHOIR_ASSIGN_OR_RETURN(AuditVerifier verifier, AuditVerifier::FromPem(pem, "the public key"));
  if (!head.ok()) {
    AuditVerdict verdict;
    verdict.intact = false;
    verdict.bad_file = dir + "/" + kAuditHeadFile;
    verdict.why = MessageOf(head.status());
    return verdict;
  }
  return Verification(dir, std::move(verifier), *head, each).Run(segments);
}

}  // namespace choir
