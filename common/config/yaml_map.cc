#include "common/config/yaml_map.h"

#include <yaml-cpp/yaml.h>

#include <set>

namespace choir {

Status ReadYamlMap(const YAML::Node& node,
                   const std::function<Status(const std::string&, const YAML::Node&)>& see) {
  if (!node.IsDefined() || node.IsNull()) return absl::OkStatus();
  if (!node.IsMap()) return InvalidArgument("must be a mapping, as {{name: value, ...}}");
  std::set<std::string> seen;
  for (const auto& item : node) {
    if (!item.first.IsScalar()) return InvalidArgument("has a name that is no plain text");
    const std::string name = item.first.Scalar();
    if (!seen.insert(name).second) return InvalidArgument("{} is given twice", name);
    CHOIR_RETURN_IF_ERROR(Annotate(see(name, item.second), name));
  }
  return absl::OkStatus();
}

}  // namespace choir
