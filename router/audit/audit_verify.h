// Verifies an audit log from its files alone: every record, every checkpoint's signature and root,
// every segment's seal, the head, and that outcomes belong to intents. One thread; reads each
// segment once.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "common/base/status.h"
#include "router/audit/audit_files.h"

namespace choir {

struct AuditVerdict {
  bool intact = true;
  std::string bad_file;  // the first thing that is wrong: where,
  uint64_t bad_seq = 0;  // which record (0: not a record),
  std::string why;       // and what

  std::string log;
  std::string key_fp;
  bool closed = false;
  uint64_t segments = 0, records = 0;
  std::map<std::string, uint64_t> phases;
  uint64_t signed_seq = 0;     // the last record under a signature
  uint64_t torn_bytes = 0;     // of an unfinished last line: repaired at the router's next start
  std::set<std::string> open;  // intents without outcome or gap
};

// `public_pem` is the key to trust; empty: the one that lies beside the log, which tells changes by
// somebody without the signing key from the original, but not a forged log with a forged key. An
// error means that there is nothing that could be verified. `each` (may be empty) hears of every
// good record.
StatusOr<AuditVerdict> VerifyAudit(const std::string& dir, const std::string& public_pem,
                                   const std::function<void(const nlohmann::json&)>& each);

}  // namespace choir
