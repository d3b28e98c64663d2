// From the router's values to the records' JSON (contract, section 6): everything but number, time
// and hashes, which the chain adds. Token ids appear only as keyed digests, or sealed when content
// is captured. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "router/audit/audit.h"
#include "router/audit/audit_keys.h"

namespace choir {

struct ContentPolicy {
  const TenantKey* key = nullptr;
  bool capture = false;  // adds `content`: sealed token ids
};

nlohmann::json IntentRecord(const AuditIntent& intent, const ContentPolicy& content);
nlohmann::json OutcomeRecord(const AuditOutcome& outcome, const ContentPolicy& content);
nlohmann::json RefusedRecord(const AuditRefusal& refusal);
nlohmann::json AdminRecord(const std::string& event, const std::string& detail);
// After a crash, or when records were dropped: what is known to be missing.
nlohmann::json GapRecord(const std::vector<std::string>& open, uint64_t torn_bytes,
                         uint64_t dropped, const std::string& why);

// Integers of 2^53 or more as strings, as the contract wants them.
nlohmann::json AuditInteger(uint64_t value);

}  // namespace choir
