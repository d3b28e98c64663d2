// A mapping of YAML, read entry by entry. Pure; any thread.
#pragma once

#include <functional>
#include <string>

#include "common/base/status.h"

namespace YAML {
class Node;
}

namespace choir {

// Calls `see` for every entry; its errors get the entry's name in front. None for a node that is
// not there. Errors: no mapping, a name that is no plain text or stands there twice.
Status ReadYamlMap(const YAML::Node& node,
                   const std::function<Status(const std::string&, const YAML::Node&)>& see);

}  // namespace choir
