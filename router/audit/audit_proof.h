// Proof that one record is in an audit log, for somebody who does not have the log: the record, the
// Merkle path from it to a root, and the checkpoint that signs the root. docs/runbook.md says
// how to check one by other means. Pure; any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "common/base/status.h"
#include "router/audit/audit_keys.h"

namespace choir {

// `proof` is {"record":{}, "index":n, "size":n, "path":["hex"...], "checkpoint":{}}, as `choir
// audit prove` prints it. InvalidArgument: the first thing that is wrong with it.
Status CheckAuditProof(const nlohmann::json& proof, const AuditVerifier& key);

}  // namespace choir
