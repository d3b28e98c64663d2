// The options of logging, the same in every program.
#pragma once

#include <string>

#include "common/config/options.h"

namespace choir {

struct LogOptions {
  std::string level = "info";
  std::string format = "text";
};

void AddLogOptions(OptionSet* set, LogOptions* options);

}  // namespace choir
