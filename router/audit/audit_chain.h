// The chain of audit records: gives each its number, time, predecessor and hash, keeps the Merkle
// tree of the segment and the intents that have no outcome yet. Pure: no files. One thread.
//
// hash = SHA-256 of the record's canonical text without `hash`; prev = hash of the record before,
// 64 zeros for the first. A checkpoint signs (Ed25519) its own canonical text without `hash` and
// `signature`; its `root` is the RFC 6962 root over the hashes, as hex text, of the segment's
// records before it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "router/audit/audit_keys.h"
#include "router/audit/merkle.h"

namespace choir {

inline constexpr int kAuditVersion = 1;
std::string FirstPrev();                // 64 zeros
std::string FormatAuditTime(WallTime);  // RFC 3339, UTC, nine decimals

struct AuditPosition {
  std::string log;   // "log-" and 16 hex digits
  uint64_t seq = 0;  // of the last record; 0: none yet
  std::string hash = FirstPrev();
};

class AuditChain {
 public:
  explicit AuditChain(AuditPosition position) : position_(std::move(position)) {}

  // The record's line, with its end. The record gets its place in the log, or another one when it
  // had one before.
  std::string Append(nlohmann::json& record, WallTime now);
  // A checkpoint's line. `seals`: the last one of its segment; the next record begins a new tree.
  std::string Checkpoint(const AuditSigner& signer, bool seals, WallTime now);

  // What Append and Checkpoint did since the last Commit is kept, or forgotten.
  void Commit();
  void RollBack();

  // For recovery: a record that is in the log already, checked by the reader.
  void Replay(const nlohmann::json& record);

  const AuditPosition& position() const { return position_; }
  // Ids of requests with an intent and no outcome, or gap that names them.
  const std::set<std::string>& open() const { return open_; }
  size_t segment_records() const { return tree_.size(); }

 private:
  std::string Link(nlohmann::json& record, WallTime now, const AuditSigner* signer);
  void Follow(const nlohmann::json& record, const std::string& hash);

  AuditPosition position_;
  uint64_t segment_first_ = 0;  // seq of the segment's first record; 0: none yet
  MerkleBuilder tree_;
  std::set<std::string> open_;

  struct Before {
    AuditPosition position;
    uint64_t segment_first = 0;
    MerkleBuilder tree;
    std::vector<std::pair<std::string, bool>> changes;  // id, inserted
  };
  Before before_{position_, 0, {}, {}};
};

}  // namespace choir
