#include "router/membership/discovery.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>

namespace choir {

bool IsDnsName(const std::string& address) { return address.starts_with("dns:"); }

Status CheckWorkerAddress(const std::string& address) {
  if (address.starts_with("unix:") && address.size() > 5) return absl::OkStatus();
  const size_t colon = address.rfind(':');
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  const bool digits =
      !port.empty() && port.size() <= 5 &&
      std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
  const bool named = !IsDnsName(address) ||
                     (colon > 4 && address.find_first_of(":/[", 4) == colon);  // not dns:7100
  if (colon != 0 && digits && named && std::stoi(port) >= 1 && std::stoi(port) <= 65535) {
    return absl::OkStatus();
  }
  return InvalidArgument(
      "worker address '{}': host:port or dns:name:port with a port of 1 to 65535 is needed",
      address);
}

StatusOr<std::vector<std::string>> ParseWorkers(const std::string& text, const std::string& name) {
  std::set<std::string> workers;
  try {
    YAML::Node list = YAML::Load(text);
    if (list.IsMap() && list["workers"]) list.reset(list["workers"]);
    // An empty file may be one that is being written; no workers are said with [].
    if (!list.IsSequence()) return InvalidArgument("{}: a list of workers is needed", name);
    if (list.size() > kWorkersMax)
      return InvalidArgument("{}: more than {} workers", name, kWorkersMax);
    for (size_t i = 0; i < list.size(); ++i) {
      const YAML::Node entry = list[i].IsMap() ? list[i]["address"] : list[i];
      if (!entry || !entry.IsScalar()) {
        return InvalidArgument("{}: [{}]: an address or a map with 'address' is needed", name, i);
      }
      const std::string address = entry.as<std::string>();
      if (const Status status = CheckWorkerAddress(address); !status.ok()) {
        return Annotate(status, fmt::format("{}: [{}]", name, i));
      }
      if (!workers.insert(address).second) {
        return InvalidArgument("{}: [{}]: '{}' is there twice", name, i, address);
      }
    }
  } catch (const YAML::Exception& e) {
    return InvalidArgument("{}: {}", name, e.what());
  }
  return std::vector<std::string>(workers.begin(), workers.end());
}

}  // namespace choir
