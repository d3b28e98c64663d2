// Where the workers are: a static list, or a file that names them. Pure; see FileWatch for
// following it.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir {

inline constexpr size_t kWorkersMax = 4'096;

// "host:port", "[v6]:port" or "unix:/path".
Status CheckWorkerAddress(const std::string& address);

// A YAML or JSON list whose entries are addresses or maps with `address`; also under a key
// `workers`. `name` is the file's, for errors.
StatusOr<std::vector<std::string>> ParseWorkers(const std::string& text, const std::string& name);

}  // namespace choir
