// Where a running cluster is: CHOIR_URL and CHOIR_API_KEY, else run.json of the state directory.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "common/base/status.h"
#include "common/config/state_dir.h"  // the default of every `state`

namespace choir {

struct ClusterAddress {
  std::string url;
  std::string api_key;
  std::string ca;  // PEM file that its certificate chains to; empty: the system's authorities
};
// `url` and `state` may be empty: the environment and the default decide. NotFound says how to
// start one.
StatusOr<ClusterAddress> FindCluster(const std::string& url, const std::string& state);

// The whole run.json.
StatusOr<nlohmann::ordered_json> ReadRunFile(const std::string& state);

}  // namespace choir
