// What lies in an audit directory, and reading it with every check that needs no key: segments
// named after their first record's number, the head (which record is the last, signed), the public
// key. Used by the router at its start and by `choir audit`. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "router/audit/audit_chain.h"

namespace choir {

inline constexpr char kAuditHeadFile[] = "head.json";
inline constexpr char kAuditPublicKeyFile[] = "public_key.pem";

std::string AuditSegmentName(uint64_t first_seq);  // "segment-000000000001.jsonl"
// Paths in the order of their records. NotFound: the directory cannot be read.
StatusOr<std::vector<std::string>> ListAuditSegments(const std::string& dir);

// Where the log ended when this was written. `closed`: it was ended on purpose, nothing may follow.
struct AuditHead {
  AuditPosition position;
  bool closed = false;
  std::string text;  // signed: the canonical text without `signature`
  std::string signature;
};
std::string FormatAuditHead(const AuditPosition& position, bool closed, const AuditSigner& signer);
// nullopt: there is none.
StatusOr<std::optional<AuditHead>> ReadAuditHead(const std::string& dir);

// Checks records one after the other: canonical form, hash, predecessor, number, log, known phase.
class AuditChecker {
 public:
  AuditChecker() = default;
  explicit AuditChecker(AuditPosition position) : position_(std::move(position)) {}
  // The error says what is wrong with this line.
  StatusOr<nlohmann::json> Next(std::string_view line);
  const AuditPosition& position() const { return position_; }

 private:
  Status Check(const nlohmann::json& record) const;
  AuditPosition position_;
};

struct AuditTail {
  uint64_t whole_bytes = 0;  // of complete lines
  uint64_t torn_bytes = 0;   // after the last line's end
};
// Calls `line` for each complete line (without its end); stops at its first error and returns it.
StatusOr<AuditTail> ReadAuditLines(const std::string& path,
                                   const std::function<Status(std::string_view line)>& line);

// The request ids in the last segments that clients gave, in their order, more than once where they
// stand in several records; of so many bytes of them, or a segment more. What was given by nobody
// who was recognised counts only where it is a record's id. Nothing is checked; a segment that
// cannot be read is left out, with a warning.
std::vector<std::string> ReadClientNames(const std::vector<std::string>& segments,
                                         uint64_t bytes_max);

}  // namespace choir
