#include "common/base/restart.h"

#include <cstdlib>

#include "common/base/log.h"

namespace choir {

void EndForRestart(const std::string& why) {
  CHOIR_LOG(error, "the device failed, this process ends to be started again: {}", why);
  spdlog::default_logger()->flush();
  std::_Exit(1);
}

}  // namespace choir
