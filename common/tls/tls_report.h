// What a part tells about its TLS: choir_tls_* on /metrics and the object "tls" of /statusz.
// Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "common/metrics/metrics.h"
#include "common/tls/tls_identity.h"

namespace choir {

class TlsReport {
 public:
  // By what each is for: "grpc", "https", "router". Those that are null (no TLS) are left out.
  TlsReport(Metrics* metrics, std::map<std::string, std::shared_ptr<TlsIdentity>> identities);

  // Brings the metrics up to date. False: some files as they are now are not in force.
  bool Refresh();
  // {"grpc": {"certificate": ..., "expires": seconds, "refused": n, ...}}
  nlohmann::ordered_json Json() const;

 private:
  struct One {
    std::string use;
    std::shared_ptr<TlsIdentity> identity;
    prometheus::Gauge& expires;
    prometheus::Counter& refused;
    uint64_t counted = 0;  // in `refused`
  };
  std::mutex mu_;  // guards `counted` of all
  std::vector<One> all_;
};

}  // namespace choir
