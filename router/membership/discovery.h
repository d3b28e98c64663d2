// Where the workers are: a static list, or a file that names them. Pure; see FileWatch for
// following the file and WorkerDirectory for following names.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir {

inline constexpr size_t kWorkersMax = 16'384;

// "host:port", "[v6]:port", "unix:/path", or "dns:name:port": a worker at every address of the
// name.
Status CheckWorkerAddress(const std::string& address);
bool IsDnsName(const std::string& address);  // the last of these

// A YAML or JSON list whose entries are addresses or maps with `address`; also under a key
// `workers`. `name` is the file's, for errors.
StatusOr<std::vector<std::string>> ParseWorkers(const std::string& text, const std::string& name);

}  // namespace choir
