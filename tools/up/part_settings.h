// What the sections of the parts in the configuration file of `choir up` say of things that `up`
// has a say in, too. Immutable; one thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "common/base/status.h"

namespace choir {

enum class Part { kWorker, kRouter, kGateway };

class PartSettings {
 public:
  PartSettings() = default;
  // A file that cannot be read says nothing: each part's own check tells what is wrong with it.
  explicit PartSettings(const std::string& config_file);

  // InvalidArgument: keys that only `up` can set, each with what to do. `tls`: it makes the
  // certificates.
  Status Check(bool tls) const;
  // A single value as it is written; nullopt: not given. A list is "".
  std::optional<std::string> Get(Part part, const std::string& key) const;
  bool Has(Part part, const std::string& key) const { return Get(part, key).has_value(); }

 private:
  std::string file_;
  std::map<std::pair<Part, std::string>, std::string> values_;
};

}  // namespace choir
