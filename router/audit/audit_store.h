// The files of one audit log: appends records durably, all or nothing; rotates segments and seals
// them with a signed checkpoint; repairs a torn tail at the start. One thread (the log's writer). A
// directory belongs to one store at a time (flock on DIR/lock).
//
// A reserve file keeps room on the disk: when it is full, intents are refused while what was begun
// can still be ended on record.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "router/audit/audit_chain.h"
#include "router/audit/audit_files.h"
#include "router/audit/audit_keys.h"

namespace choir {

struct AuditStoreOptions {
  std::string dir;
  std::string keys_dir;
  uint64_t segment_bytes = uint64_t{64} << 20;    // a segment is sealed once it is larger,
  Duration segment_time = std::chrono::hours(1);  // or older
  uint64_t reserve_bytes = uint64_t{1} << 20;
};

// What the start found.
struct AuditRecovery {
  bool fresh = false;              // there was no log
  bool clean = false;              // it was closed on purpose
  std::vector<std::string> open;   // intents without outcome
  uint64_t torn_bytes = 0;         // of a last line that was not written whole; removed
  std::vector<std::string> names;  // that clients gave to the last requests, in their order
};

class AuditStore {
 public:
  // Refuses a log that was changed, or whose signing key is gone: it is evidence now.
  static StatusOr<std::unique_ptr<AuditStore>> Open(AuditStoreOptions options, const Clock* clock);
  ~AuditStore();  // as after a crash: nothing is sealed

  const AuditRecovery& recovery() const { return recovery_; }
  std::vector<std::string> TakeNames() { return std::exchange(recovery_.names, {}); }
  const std::string& log() const { return chain_.position().log; }
  const std::string& public_key_fp() const { return signer_.fingerprint(); }

  // Appends all or none, to which it gives their places in the log. Returns the first one's seq.
  // `durable`: on the disk when it returns.
  StatusOr<uint64_t> Append(std::span<nlohmann::json> records, bool durable);
  Status Sync();
  bool unsynced() const { return unsynced_; }

  // Signs how far the log has come; nothing to do when nothing came since.
  Status Checkpoint();
  // Seals the segment when it is large or old enough.
  Status RotateIfDue();
  // Seals it and marks the log as closed.
  Status Close();

  bool HasReserve() const { return has_reserve_; }
  void ReleaseReserve();
  Status EnsureReserve();

 private:
  AuditStore(AuditStoreOptions options, const Clock* clock, AuditSigner signer);
  Status Recover();
  Status ReplaySegments(const std::vector<std::string>& segments);
  Status CompareHead(const AuditHead& head);
  Status OpenSegment();
  Status WriteLines(const std::string& lines, bool durable);
  Status WriteCheckpoint(bool seals);
  Status WriteHead(bool closed);
  std::string Path(const std::string& name) const { return options_.dir + "/" + name; }

  const AuditStoreOptions options_;
  const Clock* const clock_;
  AuditSigner signer_;
  AuditChain chain_{AuditPosition{}};
  AuditRecovery recovery_;
  int lock_ = -1, segment_ = -1;  // files
  uint64_t segment_bytes_ = 0;
  MonoTime segment_began_;
  uint64_t checked_seq_ = 0;  // of the last checkpoint
  bool unsynced_ = false;
  bool has_reserve_ = false;
  bool broken_ = false;  // the file holds what the chain does not: only a restart repairs it
};

}  // namespace choir
